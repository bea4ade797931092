// Baseline of the CPU kernel (any x86-64, AArch64, ...) and the choice of instruction set at run time.
#include "fuse.h"

#include <cmath>

#define RC_ISA isa_baseline
#include "fuse_impl.h"

namespace robocache {

#if defined(__x86_64__)
namespace isa_avx512 {
void fuse_rows(TimeType, const Stream*, const Targets&, const Output&, int64_t, int64_t);
}
namespace isa_avx2 {
void fuse_rows(TimeType, const Stream*, const Targets&, const Output&, int64_t, int64_t);
}
#endif

namespace cpu {
namespace {

struct Choice {
  decltype(&isa_baseline::fuse_rows) run;
  const char* name;
};

Choice choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return {isa_avx512::fuse_rows, "avx512"};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {isa_avx2::fuse_rows, "avx2"};
#endif
  return {isa_baseline::fuse_rows, "baseline"};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

void fuse_rows(TimeType time_type, const Stream* streams, const Targets& targets, const Output& out, int64_t begin,
               int64_t end) {
  choice().run(time_type, streams, targets, out, begin, end);
}

const char* instruction_set() { return choice().name; }

namespace {

template <class Time> int64_t first_unsorted_as(const Time* t, int64_t n) {
  if (n > 0 && t[0] != t[0]) return 0;
  constexpr int64_t kStretch = 4096;  // a stretch is one branch-free sweep; only a bad one is looked at again
  for (int64_t begin = 1; begin < n; begin += kStretch) {
    const int64_t end = begin + kStretch < n ? begin + kStretch : n;
    int bad = 0;
    for (int64_t i = begin; i < end; ++i) bad |= !(t[i] >= t[i - 1]);
    if (!bad) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (!(t[i] >= t[i - 1])) return i;
    }
  }
  return -1;
}

}  // namespace

int64_t first_unsorted(TimeType type, const void* times, int64_t n) {
  switch (type) {
    case TimeType::i64: return first_unsorted_as(static_cast<const int64_t*>(times), n);
    case TimeType::f64: return first_unsorted_as(static_cast<const double*>(times), n);
    default: return first_unsorted_as(static_cast<const float*>(times), n);
  }
}

}  // namespace cpu
}  // namespace robocache
