// A warp's task: which rows of which stream, of which episode each is, and its stencil. Shared by both kernels.
#pragma once
#include <cuda_runtime.h>

#include "robocache/math.h"

namespace robocache {
namespace {

constexpr int kWarps = 8;             // a block, so that 2048 threads an SM need only 8 blocks
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 32;             // targets a task: one a lane
constexpr int kFew = 8, kMany = 256;  // streams a launch; the parameters travel by value (kMany: 24 KiB of 32)

template <int Cap> struct Streams {
  Stream s[Cap];
  int count;
  int first;  // index of s[0] among the call's streams
};

// Last b with offsets[b] <= row, by the whole warp: 32 probes at once, so 10,000 episodes take three loads one after the
// other. The lanes must call it together.
__device__ int64_t episode_of(const int64_t* offsets, int64_t batch, int64_t row) {
  int64_t low = 0, high = batch;
  while (high - low > 1) {
    const int64_t step = (high - low + 32) / 33;
    const int64_t probe = low + (threadIdx.x % 32 + 1) * step;
    const unsigned before = __ballot_sync(~0u, probe < high && offsets[probe] <= row);
    low += __popc(before) * step;
    high = high < low + step ? high : low + step;
  }
  return low;
}

struct Place {  // one target of the batch
  int64_t batch, k, count;
};

// `first`: an episode at or before this row's, from episode_of.
template <class Time>
__device__ Place place_of(const Targets& targets, int64_t row, int64_t first, const Time** target) {
  Place p;
  const Time* times = static_cast<const Time*>(targets.times);
  if (targets.offsets) {
    p.batch = first + locate<false>(targets.offsets + first, targets.batch - first, row, 0);
    p.batch = p.batch < 0 ? 0 : p.batch;
    const int64_t start = targets.offsets[p.batch], stop = targets.offsets[p.batch + 1];
    // Offsets a caller got wrong give wrong rows, never a wild read.
    const bool sane = start >= 0 && start <= row && stop > row && stop <= targets.rows;
    p.k = sane ? row - start : 0;
    p.count = sane ? stop - start : 1;
    *target = times + (sane ? start : row);
  } else {
    p.batch = row / targets.length;
    p.k = row - p.batch * targets.length;
    p.count = targets.length;
    *target = times + p.batch * targets.batch_stride;
  }
  return p;
}

template <class Time> struct Samples {  // one episode of a stream
  const Time* t;
  int64_t n, base;  // base: element offset of the first row
};

template <class Time> __device__ Samples<Time> samples_of(const Stream& s, int64_t batch) {
  const Time* times = static_cast<const Time*>(s.times);
  if (!s.offsets) return {times + batch * s.time_batch_stride, s.length, batch * s.value_batch_stride};
  const int64_t low = s.offsets[batch], high = s.offsets[batch + 1];
  const bool sane = low >= 0 && low <= high && high <= s.length;
  return {times + (sane ? low : 0), sane ? high - low : 0, (sane ? low : 0) * s.value_row_stride};
}

// Where a stream of steady rate would have its last sample at or before x.
template <class Time> __device__ int64_t expected(const Time* t, int64_t n, Time x) {
  if (n < 4) return 0;
  const float span = float(minus(t[n - 1], t[0]));
  const float part = float(minus(x, t[0])) / span;  // NaN and infinities fail both comparisons below
  return part > 0.0f ? (part < 1.0f ? int64_t(part * float(n - 1)) : n - 1) : 0;
}

template <class A, class Time>
__device__ Stencil<A> stencil_of(const Stream& s, const Samples<Time>& d, const Place& p, const Time* target) {
  const Time shift = time_value<Time>(s.shift);
  int64_t at;
  return stencil_at<A>(s.mode, d.t, d.n, target, p.count, p.k, shift, time_value<Time>(s.max_gap),
                       expected(d.t, d.n, minus(target[p.k], shift)), &at);
}

// The task of this warp: rows [row0, row0 + rows) of stream m. False where there is none left.
struct Task {
  int64_t row0;
  int rows, m;
};
__device__ bool task_of(int64_t total_rows, int streams, Task* task) {
  const int64_t id = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t tile = id / streams;
  task->m = int(id - tile * streams);
  task->row0 = tile * kRows;
  task->rows = int(total_rows - task->row0 < kRows ? total_rows - task->row0 : kRows);
  return task->row0 < total_rows;
}

// The first row's episode, for place_of; nothing to look up in a dense batch.
__device__ int64_t first_episode(const Targets& targets, const Task& task) {
  return targets.offsets ? episode_of(targets.offsets, targets.batch, task.row0) : 0;
}

}  // namespace
}  // namespace robocache
