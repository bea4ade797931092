// A warp's rows on their way between global memory and its own piece of shared memory.
#pragma once
#include <cstdint>

#include "cuda/common/pack.cuh"

namespace robocache {
namespace {

// A warp's copy of `count` numbers that lie together, one end of it in shared memory: 16 bytes an access where both
// ends allow it.
template <class A> __device__ void copy(const A* from, A* to, int count) {
  constexpr int N = 16 / int(sizeof(A));
  const int lane = threadIdx.x % 32;
  int done = 0;
  if (((reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) & 15) == 0) {
    done = count & ~(N - 1);
#pragma unroll 4
    for (int i = lane * N; i < done; i += 32 * N) {
      *reinterpret_cast<Pack<A, N>*>(to + i) = *reinterpret_cast<const Pack<A, N>*>(from + i);
    }
  }
  for (int i = done + lane; i < count; i += 32) to[i] = from[i];
}

// Of warps of `rows` rows each: the first row of this one, and how many of `all` are its own.
struct WarpRows {
  int64_t first;
  int count;
  __device__ WarpRows(int64_t all, int rows) {
    first = (int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32) * rows;
    count = all - first < rows ? int(all - first > 0 ? all - first : 0) : rows;
  }
};

}  // namespace
}  // namespace robocache
