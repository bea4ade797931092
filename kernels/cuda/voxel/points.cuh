// Points on their way to voxels: a thread takes four, a block's width apart, and asks for all of them before it uses
// one, so that 48 bytes a thread (float32) are on their way: with 2048 threads 96 KiB a multiprocessor, about twice
// what 3 TB/s and 0.7 us of latency need. A warp's loads of one coordinate lie in the same lines as the other two.
#pragma once
#include <cuda_runtime.h>

#include <climits>

#include "robocache/core/divisor.h"
#include "robocache/core/ragged.h"
#include "robocache/core/storage.h"
#include "robocache/voxel/cell.h"

namespace robocache {
namespace {

constexpr int kThreads = 256;
constexpr int kPoints = 4;                     // a thread
constexpr int kTile = kThreads * kPoints;      // a block
constexpr uint32_t kNone = 0xffffffffu;

// Which cloud a point is of, and where it lies.
template <class V> struct PointSet {
  const V* data;
  const int64_t* offsets;
  int64_t batch_stride, row_stride, length, batch, count;
  Divisor divisor;

  static PointSet of(const voxel::Points& p) {
    const int64_t length = p.length > 0 ? p.length : 1;
    return {static_cast<const V*>(p.rows.data),
            p.offsets,
            p.rows.batch_stride,
            p.rows.row_stride,
            length,
            p.batch,
            p.count,
            Divisor::of(length < kDivisible ? length : 1)};
  }
  // Points below 2^31 are divided by multiplication; `guess` is a cloud nearby.
  __device__ int64_t cloud_of(int64_t i, int64_t guess) const {
    if (offsets) return locate<false>(offsets, batch + 1, i, guess);
    return i < kDivisible && length < kDivisible ? divisor.quotient(uint32_t(i)) : i / length;
  }
  __device__ const V* at(int64_t i, int64_t cloud) const {
    return offsets ? data + i * row_stride : data + cloud * batch_stride + (i - cloud * length) * row_stride;
  }
};

// take(i, cloud, cell) for each point of the block's tile, cell -1 where it is dropped; counts these in `dropped`,
// if there is such a thing. The counts of a block whose points are of one cloud, nearly all blocks, are added once.
template <class V, class Take>
__device__ void each_point(const PointSet<V>& points, const Cells& cells, unsigned long long* dropped,
                           const Take& take) {
  const int64_t begin = int64_t(blockIdx.x) * kTile;
  const int64_t end = min(begin + kTile, points.count);
  const int64_t first = points.cloud_of(begin, 0);
  const bool together = points.cloud_of(end - 1, first) == first;
  int64_t i[kPoints], cloud[kPoints];
  double x[kPoints], y[kPoints], z[kPoints];
#pragma unroll
  for (int k = 0; k < kPoints; ++k) {
    i[k] = begin + k * kThreads + threadIdx.x;
    if (i[k] < end) {
      cloud[k] = together ? first : points.cloud_of(i[k], first);
      const V* p = points.at(i[k], cloud[k]);
      x[k] = load(p), y[k] = load(p + 1), z[k] = load(p + 2);
    }
  }
  int lost = 0;
#pragma unroll
  for (int k = 0; k < kPoints; ++k) {
    if (i[k] >= end) break;
    const int64_t cell = cell_of(cells, x[k], y[k], z[k]);
    if (cell < 0) {
      ++lost;
      if (dropped && !together) atomicAdd(dropped + cloud[k], 1ull);
    }
    take(i[k], cloud[k], cell);
  }
  if (dropped && together) {
    __shared__ int all;
    if (threadIdx.x == 0) all = 0;
    __syncthreads();
    lost = __reduce_add_sync(~0u, lost);
    if (threadIdx.x % 32 == 0 && lost) atomicAdd(&all, lost);
    __syncthreads();
    if (threadIdx.x == 0 && all) atomicAdd(dropped + first, (unsigned long long)all);
  }
}

inline unsigned blocks_for(int64_t items, int64_t a_block) {
  const int64_t blocks = (items + a_block - 1) / a_block;
  return unsigned(blocks < INT_MAX ? blocks : INT_MAX);
}

// Calls f with a value of the dtype's type.
template <class F> void with_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f64: return f(double());
    case DType::f32: return f(float());
    case DType::f16: return f(Half());
    default: return f(BFloat16());
  }
}

// Zeroes up to two pieces of memory in one launch.
struct Piece {
  char* at;
  int64_t bytes;
};
__device__ inline void clear(const Piece& piece, int64_t thread, int64_t threads) {
  const int64_t head = min(int64_t(-reinterpret_cast<intptr_t>(piece.at) & 15), piece.bytes);
  const int64_t packs = (piece.bytes - head) / 16, tail = head + packs * 16;
  uint4* to = reinterpret_cast<uint4*>(piece.at + head);
  for (int64_t k = thread; k < packs; k += threads) to[k] = make_uint4(0, 0, 0, 0);
  if (thread < head) piece.at[thread] = 0;
  if (thread < piece.bytes - tail) piece.at[tail + thread] = 0;
}
__global__ void __launch_bounds__(kThreads) clear_kernel(Piece a, Piece b) {
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x, threads = int64_t(gridDim.x) * kThreads;
  clear(a, thread, threads);
  clear(b, thread, threads);
}
// Four stores of 16 bytes a thread, 16 KiB a block; at most 2^16 blocks, which then go round.
inline void clear(void* a, int64_t a_bytes, void* b, int64_t b_bytes, cudaStream_t queue) {
  if (a_bytes + b_bytes == 0) return;
  const int64_t blocks = (a_bytes + b_bytes) / (kThreads * 64) + 1;
  clear_kernel<<<unsigned(blocks < 65536 ? blocks : 65536), kThreads, 0, queue>>>({static_cast<char*>(a), a_bytes},
                                                                                  {static_cast<char*>(b), b_bytes});
}

}  // namespace
}  // namespace robocache
