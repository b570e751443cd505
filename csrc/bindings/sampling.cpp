#include "kernels/sampling.h"

#include "bindings/bindings.h"

namespace octavo {

void bind_sampling(nb::module_& m) { (void)m; }

}  // namespace octavo
