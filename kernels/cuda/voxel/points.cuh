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
constexpr int kPoints = 4;                 // a thread
constexpr int kTile = kThreads * kPoints;  // a block
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

// cell_of() in float32, for points of that dtype or narrower: its answer wherever rounding cannot have changed it, else
// "unsure", and float64 is asked. A quotient is off by at most three roundings of itself (2^-22 of the voxels along
// the axis) and by what rounding took from the lower bound. With 1000 voxels an axis about one point in 1000 is unsure;
// on bounds of a million metres all are. Double precision is a 64th of the arithmetic of some cards, a half of others'.
struct FastAxis {
  float lower, inverse, middle, inside, outside, room;
};
struct FastCells {
  FastAxis x, y, z;
  int first, end, ny, nz;
  bool usable;
};
constexpr int64_t kUnsure = -2;

inline FastAxis fast_axis(const voxel::Grid& g, int k) {
  const double voxels = (g.upper[k] - g.lower[k]) / g.size[k];
  const double lost = g.lower[k] - double(float(g.lower[k]));
  const double room = (voxels + 2) / (1 << 21) + (lost < 0 ? -lost : lost) / g.size[k] * 1.000001;
  return {float(g.lower[k]),           float(1.0 / g.size[k]),      float(voxels / 2),
          float(voxels / 2 - 2 * room), float(voxels / 2 + 2 * room), float(0.5 - room)};
}
inline FastCells fast_cells(const voxel::Grid& g) {
  const int64_t most = int64_t(1) << 21;
  bool finite = true;
  for (int k = 0; k < 3; ++k) {
    const double a = g.lower[k] < 0 ? -g.lower[k] : g.lower[k], b = g.upper[k] < 0 ? -g.upper[k] : g.upper[k];
    finite &= a < 1e30 && b < 1e30 && g.size[k] > 1e-30 && g.size[k] < 1e30;
  }
  const bool usable = finite && g.cells() < kDivisible && g.shape[0] < most && g.shape[1] < most && g.shape[2] < most;
  return {fast_axis(g, 0), fast_axis(g, 1),    fast_axis(g, 2),    int(g.first),
          int(g.last),     int(g.shape[1]),    int(g.shape[2]),    usable};
}
// Adds to `out` or `unsure` what is known of one axis; the index.
__device__ inline int fast_index(const FastAxis& a, float p, bool& out, bool& unsure) {
  const float q = (p - a.lower) * a.inverse;
  constexpr float kMagic = 12582912.0f;  // 1.5 2^23: adding it, rounded down, leaves the floor in the low bits
  const float sum = __fadd_rd(q, kMagic);
  const float off = fabsf(q - a.middle);
  out |= !(off <= a.outside);  // NaN is out
  unsure |= off > a.inside || fabsf((q - (sum - kMagic)) - 0.5f) > a.room;
  return __float_as_int(sum) - __float_as_int(kMagic);
}
__device__ inline int64_t fast_cell(const FastCells& c, float x, float y, float z) {
  bool out = false, unsure = false;
  const int i = fast_index(c.x, x, out, unsure), j = fast_index(c.y, y, out, unsure),
            k = fast_index(c.z, z, out, unsure);
  if (out) return -1;
  if (unsure) return kUnsure;
  return i < c.first || i >= c.end ? -1 : ((i - c.first) * c.ny + j) * c.nz + k;
}

// What the kernels take of a grid, as a __grid_constant__: it is read where it lies.
struct GridCells {
  Cells exact;
  FastCells fast;
  static GridCells of(const voxel::Grid& g) { return {cells_of(g), fast_cells(g)}; }
};

// take(i, cloud, cell) for each point of the block's tile of `kEach` a thread, cell -1 where it is dropped; counts
// these in `dropped`, if there is such a thing. The counts of a block whose points are of one cloud, nearly all
// blocks, are added once.
template <int kEach, class V, class Take>
__device__ void each_point(const PointSet<V>& points, const GridCells& cells, unsigned long long* dropped,
                           const Take& take) {
  using A = typename Accumulator<V>::type;
  const int64_t begin = int64_t(blockIdx.x) * (kThreads * kEach);
  const int here = int(min(int64_t(kThreads * kEach), points.count - begin));
  const int64_t first = points.cloud_of(begin, 0);
  const bool together = points.cloud_of(begin + here - 1, first) == first;
  const V* base = points.at(begin, first);
  const auto cloud_of = [&](int i) { return together ? first : points.cloud_of(begin + i, first); };
  const auto at = [&](int i) {
    return together ? base + i * points.row_stride : points.at(begin + i, points.cloud_of(begin + i, first));
  };
  int lost = 0;
  const auto found = [&](int i, int64_t cell) {
    const int64_t cloud = cloud_of(i);
    lost += cell < 0;
    if (cell < 0 && dropped && !together) atomicAdd(dropped + cloud, 1ull);
    take(begin + i, cloud, cell);
  };
  unsigned unsure = ~0u;  // a bit a point
  if constexpr (sizeof(A) == 4) {
    if (cells.fast.usable) {
      A x[kEach], y[kEach], z[kEach];
#pragma unroll
      for (int k = 0; k < kEach; ++k) {
        const int i = k * kThreads + threadIdx.x;
        if (i < here) {
          const V* p = at(i);
          x[k] = load(p), y[k] = load(p + 1), z[k] = load(p + 2);
        }
      }
      unsure = 0;
#pragma unroll
      for (int k = 0; k < kEach; ++k) {
        const int i = k * kThreads + threadIdx.x;
        if (i >= here) break;
        const int64_t cell = fast_cell(cells.fast, x[k], y[k], z[k]);
        if (cell == kUnsure) unsure |= 1u << k;
        else found(i, cell);
      }
    }
  }
  RC_ROLLED for (int k = 0; k < kEach; ++k) {
    const int i = k * kThreads + threadIdx.x;
    if (i >= here) break;
    if (!(unsure >> k & 1)) continue;
    const V* p = at(i);
    found(i, cell_of(cells.exact, double(load(p)), double(load(p + 1)), double(load(p + 2))));
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

// Fills two pieces of memory in one launch, each with one byte.
struct Piece {
  void* memory;
  int64_t bytes;
  uint8_t value;
};
__device__ inline void fill(const Piece& piece, int64_t thread, int64_t threads) {
  char* at = static_cast<char*>(piece.memory);
  const int64_t head = min(int64_t(-reinterpret_cast<intptr_t>(at) & 15), piece.bytes);
  const int64_t packs = (piece.bytes - head) / 16, tail = head + packs * 16;
  const uint32_t four = piece.value * 0x01010101u;
  uint4* to = reinterpret_cast<uint4*>(at + head);
  for (int64_t k = thread; k < packs; k += threads) to[k] = make_uint4(four, four, four, four);
  if (thread < head) at[thread] = char(piece.value);
  if (thread < piece.bytes - tail) at[tail + thread] = char(piece.value);
}
__global__ void __launch_bounds__(kThreads) fill_kernel(Piece a, Piece b) {
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x, threads = int64_t(gridDim.x) * kThreads;
  fill(a, thread, threads);
  fill(b, thread, threads);
}
// Four stores of 16 bytes a thread, 16 KiB a block; at most 2^16 blocks, which then go round.
inline void fill(Piece a, Piece b, cudaStream_t queue) {
  if (a.bytes + b.bytes == 0) return;
  const int64_t blocks = (a.bytes + b.bytes) / (kThreads * 64) + 1;
  fill_kernel<<<unsigned(blocks < 65536 ? blocks : 65536), kThreads, 0, queue>>>(a, b);
}

}  // namespace
}  // namespace robocache
