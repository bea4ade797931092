// The episode of a row of a jagged batch.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace robocache {
namespace {

// Last b with offsets[b] <= row, by the whole block of 128 threads: it cuts the rest into as many parts at once, so
// 10,000 episodes take two loads one after the other. All threads must call it.
template <int kThreads> __device__ int episode_of(const int64_t* offsets, int batch, int64_t row) {
  static_assert(kThreads == 128);
  int low = 0, high = batch;
  while (high - low > 1) {
    const int step = ((high - low - 1) >> 7) + 1;
    const unsigned probe = low + (threadIdx.x + 1) * step;  // up to 2^31 + 2^24
    low += __syncthreads_count(probe < unsigned(high) && offsets[probe] <= row) * step;
    high = min(high, low + step);
  }
  return low;
}

}  // namespace
}  // namespace robocache
