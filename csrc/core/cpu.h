// What this machine can do, and how much of it this process may use.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace octavo {

struct CpuFeatures {
    std::string architecture;        // x86_64, aarch64, or what the compiler calls it
    std::string model;               // marketing name; empty if the system does not tell
    std::vector<std::string> names;  // sorted; an instruction set counts only if the operating system saves its registers
    bool has(const char* name) const;
};

struct CacheSizes {
    int64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;  // as one core sees them; 0: unknown
};

// Read once per process; the answer cannot change.
const CpuFeatures& cpu_features();

// Highest level that the features allow: scalar < avx2 < avx512 < avx512_vnni < avx512_bf16 < amx on x86; scalar or neon elsewhere.
const char* cpu_level(const CpuFeatures& features);

// Logical CPUs that the scheduler may put this process on, ascending.
std::vector<int> allowed_cpus();

// One CPU of each physical core in `cpus` first, then their hyper-threaded siblings; ascending within both parts.
std::vector<int> one_per_core_first(const std::vector<int>& cpus, int* num_cores);

// CPU time per wall time that control groups (v2, v1) grant this process, in cores; nothing: unlimited.
// `root` is "" in production; tests plant /proc and /sys below a directory of their own.
std::optional<double> cgroup_quota(const std::string& root);

// Threads worth starting: allowed CPUs, capped by the quota rounded down, never less than 1.
int usable_cores();

CacheSizes cache_sizes();

}  // namespace octavo
