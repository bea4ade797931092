#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace robocache::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::baseline;
}

// The best, or a lesser one that ROBOCACHE_ISA names.
Isa choose() {
  const Isa most = best();
  const char* wanted = std::getenv("ROBOCACHE_ISA");
  for (int i = 0; wanted && i < int(most); ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return Isa(i);
  }
  return most;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name() { return kNames[int(isa())]; }

}  // namespace robocache::cpu
