// Lets tests run what level amx does on tiles, on any machine.
#include <algorithm>
#include <cstring>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/amx.h"

namespace octavo {
namespace {

// Aligned bytes that read as NaN until they are written, and notice who writes behind them.
class Guarded {
public:
    explicit Guarded(int64_t size) : memory_(size + 2 * kMargin, char(0xff)), size_(size) {}
    char* data() { return memory_.data() + (-reinterpret_cast<uintptr_t>(memory_.data()) & 63); }
    void check(const char* what) {
        const char* end = data() + size_;
        if (std::any_of(end, end + kMargin, [](char byte) { return byte != char(0xff); })) throw std::runtime_error(std::string("written behind ") + what);
    }

private:
    static constexpr int64_t kMargin = 4096;
    std::vector<char> memory_;
    int64_t size_;
};

void emulate(const PackedWeight& weight, uintptr_t x, int64_t rows, uintptr_t out) {
    const Format* format = amx_emulated::amx_format(weight.kind);
    if (!format) throw nb::value_error(("level amx has no tiles for kind " + std::to_string(static_cast<int>(weight.kind))).c_str());
    amx_emulated::first_fault();
    const int64_t step = format->block_rows, inputs = weight.in_features, full_bytes = format->block_bytes(weight, format->block_rows);
    const int64_t whole = rows / step, last = rows % step;
    Guarded blocks(whole * full_bytes + (last ? format->block_bytes(weight, static_cast<int>(last)) : 0));
    for (int64_t first = 0; first < rows; first += step) {
        format->prepare(weight, reinterpret_cast<const float*>(x) + first * inputs, inputs, static_cast<int>(std::min(step, rows - first)),
                        blocks.data() + first / step * full_bytes);
    }
    blocks.check("the prepared rows");
    const int64_t panels = weight.num_panels();
    for (int64_t panel = 0; panel < panels; panel++) {
        for (int64_t first = 0; first < rows; first += kRowChunk) {
            const int chunk = static_cast<int>(std::min<int64_t>(kRowChunk, rows - first));
            Guarded tile(chunk * kPanel * 4), scratch(format->scratch_bytes(weight, chunk));
            format->multiply(weight, weight.panels + panel * weight.panel_bytes, blocks.data() + first / step * full_bytes, chunk,
                             reinterpret_cast<float*>(tile.data()), scratch.data());
            tile.check("the tile");
            scratch.check("the scratch memory");
            for (int r = 0; r < chunk; r++) {
                std::memcpy(reinterpret_cast<float*>(out) + ((first + r) * panels + panel) * kPanel, tile.data() + r * kPanel * 4, kPanel * 4);
            }
        }
    }
    if (const char* fault = amx_emulated::first_fault()) throw std::runtime_error(fault);
}

}  // namespace

void bind_amx(nb::module_& m) {
    m.def("emulate_amx", &emulate, nb::arg("weight"), nb::arg("x"), nb::arg("rows"), nb::arg("out"),
          "Write what level amx computes, with its tile instructions emulated; for tests.");
}

}  // namespace octavo
