// The values of each row from its points, which groups.cu has laid side by side in no particular order.
//
// sum, mean, min, max   a lane a row where rows have few points, else eight; up to three columns at a time. Exact sums
//                       and extremes do not depend on the order (robocache/voxel/sum.h, reduce.h). Rows of more than
//                       kHeavy points a lane, and those whose sum two floats cannot hold, are left to the whole block,
//                       256 points a step. Bytes: 8 to 12 a row (where, how
//                       many, the head), 4 a point (which), the 32-byte sectors of its features, and the result.
// points                a warp a row. Rows of at most 32 points of 16 bytes each: a lane a point; how many numbers
//                       are below its own is the place it writes to, and the other lanes write zeros: one store of 512
//                       bytes. Others: the warp takes the 32 smallest point numbers above the last it had, in sorted
//                       order, and writes 32 points' columns side by side; again for every 32 of `most`.
//                       Bytes: the result, nearly all of them zeros for K = 32; 4 a point, its columns.
#include "points.cuh"
#include "robocache/voxel/reduce.h"
#include "voxelize.h"

namespace robocache {
namespace {

using cuda::VoxelGroups;
using voxel::Reduction;

constexpr int kHeavy = 64;     // points a lane
constexpr int kColumns = 3;    // a lane has the sums of: x, y, z in one go; a fourth would spill at three blocks
constexpr int kWarps = kThreads / 32;
constexpr int kBlocks = 3;  // a multiprocessor: 85 registers a thread

// Rows of a launch, and their points.
struct RowSet {
  const uint32_t *rows, *start, *order, *head;
  const int32_t* counts;
  // A dense result: the voxel of a row is that of its first point.
  const uint32_t* slot;
  const uint64_t* keys;
  Divisor a_cloud;
  int64_t cells;
  bool dense;

  // Point j of a row.
  __device__ uint32_t point(int64_t row, uint32_t begin, int j) const {
    return !head ? order[begin + j] : j == 0 ? head[row] : order[begin + j - 1];
  }

  __device__ int64_t place(int64_t row, uint32_t any_point) const {
    if (!dense) return row;
    const uint32_t s = slot[any_point] & 0x7fffffff;
    if (keys) return int64_t(keys[slot[any_point]]);
    const uint32_t block = s / 256, cloud = a_cloud.quotient(block);
    return cloud * cells + (block - cloud * a_cloud.d) * 224 + s % 256;
  }
};

template <class V> __device__ const V* features_of(const PointSet<V>& features, uint32_t i) {
  return features.at(i, features.offsets ? 0 : features.cloud_of(i, 0));
}

// What a thread holds of a sum, or of an extreme.
template <class V, bool kSum> struct Fold;
template <class V> struct Fold<V, true> {
  PairSum sum;
  __device__ explicit Fold(Reduction = {}) {}
  __device__ void add(const V* x) { sum.add(load(x)); }
  __device__ void add(const Fold& other) { sum.add(other.sum); }
  __device__ Fold from(int step) const {
    Fold other(*this);
    other.sum.high = __shfl_xor_sync(~0u, sum.high, step);
    other.sum.low = __shfl_xor_sync(~0u, sum.low, step);
    other.sum.lossy = __shfl_xor_sync(~0u, int(sum.lossy), step);
    return other;
  }
  __device__ bool lossy() const { return sum.lossy; }
  __device__ double value() const { return sum.value(); }
};
template <class V> struct Fold<V, false> {
  using A = typename Accumulator<V>::type;
  Extreme<A> extreme;
  bool any = false;
  __device__ explicit Fold(Reduction reduce = {}) : extreme{A(0), reduce == Reduction::max} {}
  __device__ void take(A x) {
    if (any) extreme.add(x);
    else extreme.best = x;
    any = true;
  }
  __device__ void add(const V* x) { take(load(x)); }
  __device__ void add(const Fold& other) {
    if (other.any) take(other.extreme.best);
  }
  __device__ Fold from(int step) const {
    Fold other(*this);
    other.extreme.best = __shfl_xor_sync(~0u, extreme.best, step);
    other.any = __shfl_xor_sync(~0u, int(any), step);
    return other;
  }
  __device__ bool lossy() const { return false; }
  __device__ double value() const { return extreme.best; }
};

// Up to three columns of one row.
template <class V, bool kSum> struct Folds {
  Fold<V, kSum> of[kColumns];
  __device__ explicit Folds(Reduction reduce) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) of[c] = Fold<V, kSum>(reduce);
  }
  // Points first, first + step, ... of a row.
  __device__ void add(const RowSet& set, const PointSet<V>& features, int64_t row, uint32_t begin, int first, int step,
                      int n, int64_t column, int columns) {
#pragma unroll 2
    for (int j = first; j < n; j += step) {
      const V* at = features_of(features, set.point(row, begin, j)) + column;
      V x[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (c < columns) x[c] = at[c];
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (c < columns) of[c].add(x + c);
      }
    }
  }
  template <int kLanes> __device__ void join() {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) of[c].add(of[c].from(step));
    }
  }
  // Whether all columns were written that two floats can hold the sum of.
  __device__ bool write(Reduction reduce, int n, int columns, V* out) const {
    bool whole = true;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c >= columns) break;
      const double value = of[c].value();
      put(out + c, reduce == Reduction::mean ? value / double(n) : value);
      whole &= !of[c].lossy();
    }
    return whole;
  }
};

// One column of one row, by the whole block, in a wide integer in shared memory.
template <class V>
__device__ void wide_sum(WideSum* wide, const RowSet& set, const PointSet<V>& features, int64_t row, uint32_t begin,
                         int n, int64_t column, Reduction reduce, V* out) {
  for (int k = threadIdx.x; k < int(sizeof *wide / 4); k += kThreads) reinterpret_cast<int*>(wide)[k] = 0;
  __syncthreads();
  RC_ROLLED for (int j = threadIdx.x; j < n; j += kThreads) {
    wide->deposit(
        load(features_of(features, set.point(row, begin, j)) + column),
        [](int64_t* at, int64_t number) {
          atomicAdd(reinterpret_cast<unsigned long long*>(at), (unsigned long long)number);
        },
        [](int* at) { atomicExch(at, 1); });
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const double value = wide->value();
    put(out, reduce == Reduction::mean ? value / double(n) : value);
  }
  __syncthreads();
}

template <class V, bool kSum, int kLanes>
__global__ void __launch_bounds__(kThreads, kBlocks)
    reduce_kernel(const __grid_constant__ RowSet set, const __grid_constant__ PointSet<V> features, int64_t width,
                  Reduction reduce, int64_t rows, V* out) {
  __shared__ int left;                                // rows for the whole block
  __shared__ uint16_t rest[kThreads / kLanes];
  __shared__ bool whole;
  __shared__ alignas(16) char raw[kWarps * sizeof(Folds<V, kSum>) + (kSum ? sizeof(WideSum) : 0)];
  Folds<V, kSum>* parts = reinterpret_cast<Folds<V, kSum>*>(raw);
  if (threadIdx.x == 0) left = 0;
  __syncthreads();
  const int64_t first_row = int64_t(blockIdx.x) * (kThreads / kLanes);
  const int64_t known = min(rows, int64_t(*set.rows));
  {
    const int64_t row = first_row + threadIdx.x / kLanes;
    const int lane = threadIdx.x % kLanes;
    const int count = row < known ? set.counts[row] : 0;
    const uint32_t begin = row < known ? set.start[row] : 0;
    const int n = count > kHeavy * kLanes ? 0 : count;
    bool done = n == count;
    V* to = n > 0 && lane == 0 ? out + set.place(row, set.point(row, begin, 0)) * width : nullptr;
    for (int64_t column = 0; column < width; column += kColumns) {
      const int columns = int(min(int64_t(kColumns), width - column));
      Folds<V, kSum> folds(reduce);
      folds.add(set, features, row, begin, lane, kLanes, n, column, columns);
      folds.template join<kLanes>();
      if (to) done &= folds.write(reduce, n, columns, to + column);
    }
    if (!done && lane == 0) rest[atomicAdd(&left, 1)] = uint16_t(threadIdx.x / kLanes);
  }
  __syncthreads();
  for (int h = 0; h < left; ++h) {
    const int64_t row = first_row + rest[h];
    const int n = set.counts[row];
    const uint32_t begin = set.start[row];
    V* to = out + set.place(row, set.point(row, begin, 0)) * width;
    for (int64_t column = 0; column < width; column += kColumns) {
      const int columns = int(min(int64_t(kColumns), width - column));
      Folds<V, kSum> folds(reduce);
      folds.add(set, features, row, begin, threadIdx.x, kThreads, n, column, columns);
      folds.template join<32>();
      if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = folds;
      __syncthreads();
      if (threadIdx.x == 0) {
        RC_ROLLED for (int w = 1; w < kWarps; ++w) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) folds.of[c].add(parts[w].of[c]);
        }
        whole = folds.write(reduce, n, columns, to + column);
      }
      __syncthreads();
      if constexpr (kSum) {
        if (whole) continue;
        WideSum* wide = reinterpret_cast<WideSum*>(raw + kWarps * sizeof(Folds<V, kSum>));
        RC_ROLLED for (int c = 0; c < columns; ++c) {
          wide_sum(wide, set, features, row, begin, n, column + c, reduce, to + column + c);
        }
      }
    }
  }
}

// The lanes' numbers in rising order.
__device__ uint32_t sorted(uint32_t x) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned size = 2; size <= 32; size *= 2) {
#pragma unroll
    for (unsigned step = size / 2; step > 0; step /= 2) {
      const uint32_t other = __shfl_xor_sync(~0u, x, step);
      const bool lower = !(lane & step), rising = !(lane & size);
      x = lower == rising ? min(x, other) : max(x, other);
    }
  }
  return x;
}

// The 32 smallest of two sorted runs, sorted.
__device__ uint32_t merged(uint32_t x, uint32_t y) {
  const unsigned lane = threadIdx.x % 32;
  x = min(x, __shfl_sync(~0u, y, 31 - lane));
#pragma unroll
  for (unsigned step = 16; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(~0u, x, step);
    x = lane & step ? max(x, other) : min(x, other);
  }
  return x;
}

// Points of one access each, at most 32 of them in the result.
template <class V, class Pack>
__global__ void __launch_bounds__(kThreads)
    packed_points_kernel(const __grid_constant__ RowSet set, const __grid_constant__ PointSet<V> features, int most,
                         int64_t rows, Pack* out) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = threadIdx.x % 32;
  const int n = set.counts[row];
  const uint32_t* order = set.order + set.start[row];
  int place = lane;
  Pack value{};
  if (n <= 32) {
    const uint32_t mine = lane < n ? order[lane] : kNone;
    if (lane < n) {
      value = *reinterpret_cast<const Pack*>(features_of(features, mine));
      place = 0;
    }
    for (int j = 0; j < n; ++j) place += lane < n && __shfl_sync(~0u, mine, j) < mine;
  } else {
    uint32_t best = kNone;
    for (int j = 0; j < n; j += 32) {
      const uint32_t mine = j + lane < n ? order[j + lane] : kNone;
      if (!__any_sync(~0u, mine < __shfl_sync(~0u, best, 31))) continue;
      best = merged(best, sorted(mine));
    }
    value = *reinterpret_cast<const Pack*>(features_of(features, best));
  }
  if (place < most) out[row * most + place] = value;
}

template <class V>
__global__ void __launch_bounds__(kThreads)
    points_kernel(const __grid_constant__ RowSet set, const __grid_constant__ PointSet<V> features, uint32_t width,
                  Divisor by_width, int64_t most, int64_t rows, V* out) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const uint32_t lane = threadIdx.x % 32;
  const int n = set.counts[row];
  const uint32_t* order = set.order + set.start[row];
  V* to = out + row * most * width;
  const V zero{};
  uint32_t last = 0;  // numbers below have been written
  for (int64_t done = 0; done < most; done += 32) {
    const uint32_t here = uint32_t(min(int64_t(32), most - done)), elements = here * width;
    if (done >= n) {
      for (uint32_t e = lane; e < elements; e += 32) to[done * width + e] = zero;
      continue;
    }
    uint32_t best = kNone;
    for (int j = 0; j < n; j += 32) {
      uint32_t mine = j + int(lane) < n ? order[j + lane] : kNone;
      if (mine < last) mine = kNone;
      const uint32_t worst = __shfl_sync(~0u, best, 31);
      if (!__any_sync(~0u, mine < worst)) continue;
      mine = sorted(mine);
      best = j == 0 ? mine : merged(best, mine);
    }
    for (uint32_t e = lane; __any_sync(~0u, e < elements); e += 32) {
      const uint32_t k = by_width.quotient(e), i = __shfl_sync(~0u, best, k & 31);
      if (e < elements) to[done * width + e] = i == kNone ? zero : features_of(features, i)[e - k * width];
    }
    last = __shfl_sync(~0u, best, 31) + 1;  // 0 after kNone, when no points are left and done >= n
  }
}

RowSet row_set(const VoxelGroups& g, const int32_t* counts, bool dense) {
  const int64_t blocks = (g.grid.cells() + 223) / 224;  // of a cloud, as groups.cu has them
  return {g.rows, g.start, g.order, g.hashed ? nullptr : g.head, counts, g.slot, g.hashed ? g.keys : nullptr,
          Divisor::of(blocks > 0 && blocks < kDivisible ? blocks : 1), g.grid.cells(), dense};
}

// Whether rows of features are accesses of this many bytes.
bool is_packed(const voxel::Points& features, int64_t size, int64_t bytes) {
  return features.rows.width * size == bytes && reinterpret_cast<uintptr_t>(features.rows.data) % bytes == 0 &&
         features.rows.row_stride * size % bytes == 0 && features.rows.batch_stride * size % bytes == 0;
}

}  // namespace

void cuda::reduce_groups(const VoxelGroups& g, Reduction reduce, const voxel::Points& features, const int32_t* counts,
                         int64_t rows, int64_t most, bool dense, void* out, cudaStream_t queue) {
  const int64_t width = features.rows.width;
  if (rows == 0 || width == 0) return;
  const RowSet set = row_set(g, counts ? counts : reinterpret_cast<int32_t*>(g.counts), dense);
  const Divisor by_width = Divisor::of(width < kDivisible ? width : 1);
  if (reduce == Reduction::points) {
    const auto copy = [&](auto v) {
      using V = decltype(v);
      if (most <= 32 && is_packed(features, sizeof(V), 16)) {
        packed_points_kernel<<<blocks_for(rows, kWarps), kThreads, 0, queue>>>(
            set, PointSet<V>::of(features), int(most), rows, static_cast<uint4*>(out));
        return;
      }
      points_kernel<<<blocks_for(rows, kWarps), kThreads, 0, queue>>>(
          set, PointSet<V>::of(features), uint32_t(width), by_width, most, rows, static_cast<V*>(out));
    };
    switch (features.rows.dtype) {
      case DType::f64: return copy(uint64_t());
      case DType::f32: return copy(uint32_t());
      default: return copy(uint16_t());
    }
  }
  with_dtype(features.rows.dtype, [&](auto v) {
    using V = decltype(v);
    const auto launch = [&](auto kernel, int lanes) {
      kernel<<<blocks_for(rows, kThreads / lanes), kThreads, 0, queue>>>(set, PointSet<V>::of(features), width, reduce,
                                                                         rows, static_cast<V*>(out));
    };
    const bool sum = reduce == Reduction::sum || reduce == Reduction::mean;
    // A dense result does not know how many rows there are: it is ready for few.
    if (!dense && g.points.count < 4 * rows) {
      sum ? launch(reduce_kernel<V, true, 1>, 1) : launch(reduce_kernel<V, false, 1>, 1);
    } else {
      sum ? launch(reduce_kernel<V, true, 8>, 8) : launch(reduce_kernel<V, false, 8>, 8);
    }
  });
}

}  // namespace robocache
