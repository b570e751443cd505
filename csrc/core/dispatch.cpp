#include "core/dispatch.h"

#include <atomic>

#include "core/cpu.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace octavo {

#define LEVEL(name) namespace name { extern const Kernels table; }
#include "kernel_levels.inc"
#undef LEVEL

namespace {

struct Level {
    const char* name;
    const Kernels* table;
};

std::vector<const char*> needs_of(const std::string& level) {
    if (level == "avx2") return {"avx2", "fma", "f16c"};
    if (level == "avx512") return {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"};
    if (level == "avx512_vnni") return {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"};
    if (level == "avx512_bf16") {
        return {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_vbmi"};
    }
    if (level == "amx") {
        return {"avx2",        "fma",         "f16c",        "avx512f",  "avx512bw", "avx512dq", "avx512vl",
                "avx512_vnni", "avx512_bf16", "avx512_vbmi", "amx_tile", "amx_int8", "amx_bf16"};
    }
    return {};
}

// Linux lets a process use tile registers once it has asked, all its threads and children included. It refuses where a thread's
// alternate signal stack has no room for them.
bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

// Lowest first, in the order of CMakeLists.txt.
const std::vector<Level>& usable() {
    static const std::vector<Level> levels = [] {
        std::vector<Level> out;
        const auto add = [&](const char* name, const Kernels* table) {
            for (const char* feature : needs_of(name)) {
                if (!cpu_features().has(feature)) return;
            }
            if (std::string(name) == "amx" && !may_use_tiles()) return;
            out.push_back({name, table});
        };
#define LEVEL(name) add(#name, &name::table);
#include "kernel_levels.inc"
#undef LEVEL
        return out;
    }();
    return levels;
}

std::atomic<const Level*>& current() {
    static std::atomic<const Level*> level{&usable().back()};
    return level;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed)->table; }

std::vector<std::string> kernel_levels() {
    std::vector<std::string> out;
    for (const Level& level : usable()) out.push_back(level.name);
    return out;
}

const char* kernel_level() { return current().load(std::memory_order_relaxed)->name; }

bool use_kernel_level(const std::string& name) {
    for (const Level& level : usable()) {
        if (name == level.name) {
            current().store(&level, std::memory_order_relaxed);
            return true;
        }
    }
    return false;
}

}  // namespace octavo
