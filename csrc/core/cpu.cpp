#include "core/cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace octavo {
namespace {

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

#if defined(__x86_64__)

struct Leaf {
    uint32_t a = 0, b = 0, c = 0, d = 0;
};

Leaf cpuid(uint32_t leaf, uint32_t sub = 0) {
    Leaf r;
    if (!__get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d)) return Leaf{};
    return r;
}

uint64_t saved_state() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}

bool bit(uint32_t word, int position) { return word >> position & 1; }

// Bit positions: Intel SDM volume 2A, CPUID, and volume 1, 13.2 (XCR0).
void detect(CpuFeatures& out) {
    out.architecture = "x86_64";
    const Leaf l1 = cpuid(1), l7 = cpuid(7), l71 = l7.a >= 1 ? cpuid(7, 1) : Leaf{};
    const uint64_t state = bit(l1.c, 27) ? saved_state() : 0;
    const bool ymm = (state & 0x6) == 0x6, zmm = ymm && (state & 0xe0) == 0xe0, tiles = (state & 0x60000) == 0x60000;
    const auto add = [&](bool present, const char* name) {
        if (present) out.names.push_back(name);
    };
    add(ymm && bit(l7.b, 5), "avx2");
    add(ymm && bit(l1.c, 12), "fma");
    add(ymm && bit(l1.c, 29), "f16c");
    add(ymm && bit(l71.a, 4), "avx_vnni");
    add(zmm && bit(l7.b, 16), "avx512f");
    add(zmm && bit(l7.b, 17), "avx512dq");
    add(zmm && bit(l7.b, 30), "avx512bw");
    add(zmm && bit(l7.b, 31), "avx512vl");
    add(zmm && bit(l7.c, 1), "avx512_vbmi");
    add(zmm && bit(l7.c, 11), "avx512_vnni");
    add(zmm && bit(l7.d, 23), "avx512_fp16");
    add(zmm && bit(l71.a, 5), "avx512_bf16");
    add(tiles && bit(l7.d, 22), "amx_bf16");
    add(tiles && bit(l7.d, 24), "amx_tile");
    add(tiles && bit(l7.d, 25), "amx_int8");

    char brand[49] = {};
    if (cpuid(0x80000000).a >= 0x80000004) {
        for (uint32_t i = 0; i < 3; i++) {
            const Leaf part = cpuid(0x80000002 + i);
            std::memcpy(brand + 16 * i, &part, 16);
        }
    }
    out.model = brand;
}

#elif defined(__aarch64__)

void detect(CpuFeatures& out) {
    out.architecture = "aarch64";
#if defined(__linux__)
    const unsigned long one = getauxval(AT_HWCAP), two = getauxval(AT_HWCAP2);
    if (one & HWCAP_ASIMD) out.names.push_back("neon");
    if (one & HWCAP_ASIMDDP) out.names.push_back("dotprod");
    if (one & HWCAP_SVE) out.names.push_back("sve");
#ifdef HWCAP2_I8MM
    if (two & HWCAP2_I8MM) out.names.push_back("i8mm");
#endif
#ifdef HWCAP2_BF16
    if (two & HWCAP2_BF16) out.names.push_back("bf16");
#endif
    (void)two;
#elif defined(__APPLE__)
    const auto add = [&](const char* key, const char* name) {
        int value = 0;
        size_t size = sizeof value;
        if (sysctlbyname(key, &value, &size, nullptr, 0) == 0 && value) out.names.push_back(name);
    };
    out.names.push_back("neon");
    add("hw.optional.arm.FEAT_DotProd", "dotprod");
    add("hw.optional.arm.FEAT_I8MM", "i8mm");
    add("hw.optional.arm.FEAT_BF16", "bf16");
#endif
}

#else

void detect(CpuFeatures& out) { out.architecture = "other"; }

#endif

std::string model_from_system() {
#if defined(__APPLE__)
    char name[128] = {};
    size_t size = sizeof name - 1;
    return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? name : "";
#else
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("model name", 0) == 0 || line.rfind("Model", 0) == 0) return line.substr(line.find(':') + 1);
    }
    return first_line("/sys/firmware/devicetree/base/model");
#endif
}

std::string trimmed(const std::string& text) {
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\0'; };
    auto begin = std::find_if_not(text.begin(), text.end(), blank);
    auto end = std::find_if_not(text.rbegin(), std::make_reverse_iterator(begin), blank).base();
    return std::string(begin, end);
}

// A group's limit binds all below it, so the tightest one on the way up to the mount counts.
template <class ReadLimit>
void tighten(std::optional<double>& quota, const std::string& mount, std::string group, ReadLimit read_limit) {
    for (;;) {
        const std::optional<double> limit = read_limit(mount + group);
        if (limit && (!quota || *limit < *quota)) quota = limit;
        const size_t slash = group.rfind('/');
        if (slash == std::string::npos) return;
        group.resize(slash);
    }
}

std::optional<double> limit_v2(const std::string& folder) {
    std::istringstream line(first_line(folder + "/cpu.max"));  // "200000 100000" or "max 100000"
    double quota = 0, period = 0;
    if (line >> quota >> period && quota > 0 && period > 0) return quota / period;
    return std::nullopt;
}

std::optional<double> limit_v1(const std::string& folder) {
    std::istringstream quota_text(first_line(folder + "/cpu.cfs_quota_us")), period_text(first_line(folder + "/cpu.cfs_period_us"));
    double quota = 0, period = 0;
    if (quota_text >> quota && period_text >> period && quota > 0 && period > 0) return quota / period;
    return std::nullopt;  // -1: unlimited
}

bool lists_cpu_controller(const std::string& controllers) {
    std::istringstream list(controllers);
    for (std::string name; std::getline(list, name, ',');) {
        if (name == "cpu") return true;
    }
    return false;
}

int64_t bytes_of(const std::string& text) {  // "32K", "512K", "32M"
    if (text.empty()) return 0;
    const int64_t number = std::atoll(text.c_str());
    return text.back() == 'K' ? number << 10 : text.back() == 'M' ? number << 20 : number;
}

}  // namespace

bool CpuFeatures::has(const char* name) const { return std::binary_search(names.begin(), names.end(), std::string(name)); }

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = [] {
        CpuFeatures out;
        detect(out);
        std::sort(out.names.begin(), out.names.end());
        out.model = trimmed(out.model.empty() ? model_from_system() : out.model);
        return out;
    }();
    return features;
}

const char* cpu_level(const CpuFeatures& f) {
    if (f.has("neon")) return "neon";
    if (!(f.has("avx2") && f.has("fma") && f.has("f16c"))) return "scalar";
    if (!(f.has("avx512f") && f.has("avx512bw") && f.has("avx512dq") && f.has("avx512vl"))) return "avx2";
    if (!f.has("avx512_vnni")) return "avx512";
    if (!f.has("avx512_bf16")) return "avx512_vnni";
    return f.has("amx_tile") && f.has("amx_int8") && f.has("amx_bf16") ? "amx" : "avx512_bf16";
}

std::vector<int> allowed_cpus() {
    std::vector<int> out;
#if defined(__linux__)
    for (int capacity = 1024; capacity <= 1 << 16; capacity *= 2) {  // the kernel refuses a mask smaller than its own
        cpu_set_t* set = CPU_ALLOC(capacity);
        const size_t size = CPU_ALLOC_SIZE(capacity);
        const bool read = sched_getaffinity(0, size, set) == 0;
        for (int cpu = 0; read && cpu < capacity; cpu++) {
            if (CPU_ISSET_S(cpu, size, set)) out.push_back(cpu);
        }
        CPU_FREE(set);
        if (read) break;
    }
#endif
    if (out.empty()) {
        const int count = std::max(1u, std::thread::hardware_concurrency());
        for (int cpu = 0; cpu < count; cpu++) out.push_back(cpu);
    }
    return out;
}

std::vector<int> one_per_core_first(const std::vector<int>& cpus, int* num_cores) {
    std::vector<int> first, rest;
    std::set<std::string> seen;
    for (int cpu : cpus) {
        const std::string siblings =
            first_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
        const bool is_first = siblings.empty() || seen.insert(siblings).second;
        (is_first ? first : rest).push_back(cpu);
    }
    *num_cores = int(first.size());
    first.insert(first.end(), rest.begin(), rest.end());
    return first;
}

std::optional<double> cgroup_quota(const std::string& root) {
    std::optional<double> quota;
    std::ifstream file(root + "/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {  // "hierarchy:controllers:group"
        const size_t one = line.find(':'), two = line.find(':', one + 1);
        if (one == std::string::npos || two == std::string::npos) continue;
        const std::string controllers = line.substr(one + 1, two - one - 1);
        std::string group = line.substr(two + 1);
        if (group == "/") group.clear();
        if (controllers.empty()) {
            tighten(quota, root + "/sys/fs/cgroup", group, limit_v2);
            tighten(quota, root + "/sys/fs/cgroup/unified", group, limit_v2);
        } else if (lists_cpu_controller(controllers)) {
            tighten(quota, root + "/sys/fs/cgroup/" + controllers, group, limit_v1);
            if (controllers != "cpu") tighten(quota, root + "/sys/fs/cgroup/cpu", group, limit_v1);
        }
    }
    return quota;
}

int usable_cores() {
    const int allowed = int(allowed_cpus().size());
    const std::optional<double> quota = cgroup_quota("");
    // Rounded down: a team that waits for its slowest member gains nothing from a member that is throttled.
    return quota ? std::clamp(int(std::floor(*quota)), 1, allowed) : allowed;
}

CacheSizes cache_sizes() {
    CacheSizes out;
#if defined(__linux__)
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(allowed_cpus().front()) + "/cache/index";
    for (int i = 0; i < 8; i++) {
        const std::string index = folder + std::to_string(i);
        const std::string level = first_line(index + "/level"), type = first_line(index + "/type");
        const int64_t bytes = bytes_of(first_line(index + "/size"));
        if (level == "1" && type == "Data") out.l1d_bytes = bytes;
        if (level == "2") out.l2_bytes = bytes;
        if (level == "3") out.l3_bytes = bytes;
    }
#elif defined(__APPLE__)
    const auto read = [](const char* key) {
        int64_t value = 0;
        size_t size = sizeof value;
        return sysctlbyname(key, &value, &size, nullptr, 0) == 0 ? value : 0;
    };
    out = {read("hw.l1dcachesize"), read("hw.l2cachesize"), read("hw.l3cachesize")};
#endif
    return out;
}

}  // namespace octavo
