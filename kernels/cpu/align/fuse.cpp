// Baseline of the CPU kernel (any x86-64, AArch64, ...), and the doors.
#include "fuse.h"

#include <cmath>

#include "cpu/isa.h"

#define RC_ISA isa_baseline
#include "fuse_impl.h"

namespace robocache {

namespace align {
RC_EACH_ISA(fuse_rows)
}  // namespace align

namespace cpu {

void fuse_rows(align::TimeType time_type, const align::Stream* streams, const align::Targets& targets,
               const align::Output& out, int64_t begin, int64_t end) {
  RC_FOR_THIS_MACHINE(align, fuse_rows)(time_type, streams, targets, out, begin, end);
}

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

int64_t first_unsorted(align::TimeType type, const void* times, int64_t n) {
  switch (type) {
    case align::TimeType::i64: return first_unsorted_as(static_cast<const int64_t*>(times), n);
    case align::TimeType::f64: return first_unsorted_as(static_cast<const double*>(times), n);
    default: return first_unsorted_as(static_cast<const float*>(times), n);
  }
}

}  // namespace cpu
}  // namespace robocache
