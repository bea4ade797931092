// The values of each row from its points, which groups.cu has laid side by side in no particular order.
//
// sum, mean, min, max   a thread a row and column, neighbouring lanes on neighbouring columns; four points are asked for
//                       before one is used. Exact sums and extremes do not depend on the order (robocache/voxel/sum.h,
//                       reduce.h). Rows of more than kHeavy points are left to the whole block, 256 points a step.
//                       Bytes: 8 a row (where, how many), 4 a point (which), its features once from the sectors they
//                       touch, and the result.
// points                a warp a row: it takes the 32 smallest point numbers above the last it had, in sorted order,
//                       and writes 32 points' columns side by side, zeros behind the last; again for every 32 of `most`.
//                       Bytes: the result, nearly all of them zeros for K = 32; 4 a point, its columns.
#include "points.cuh"
#include "robocache/voxel/reduce.h"
#include "voxelize.h"

namespace robocache {
namespace {

using cuda::VoxelGroups;
using voxel::Reduction;

constexpr int kHeavy = 128;
constexpr int kWarps = kThreads / 32;

// Rows of a launch, and their points.
struct RowSet {
  const uint32_t *rows, *start, *order;
  const int32_t* counts;
  // A dense result: the voxel of a row is that of its first point.
  const uint32_t* slot;
  const uint64_t* keys;
  Divisor a_cloud;
  int64_t cells, cloud_bits;
  bool dense;

  __device__ int64_t place(int64_t row) const {
    if (!dense) return row;
    const uint32_t s = slot[order[start[row]]];
    if (keys) return int64_t(keys[s]);
    const uint32_t cloud = a_cloud.quotient(s);
    return cloud * cells + (s - cloud * cloud_bits);
  }
};

template <class V> __device__ const V* features_of(const PointSet<V>& features, uint32_t i) {
  return features.at(i, features.offsets ? 0 : features.cloud_of(i, 0));
}

template <class V, class Each> __device__ __noinline__ double wide_sum(const Each& each) {
  WideSum wide;
  each([&](double x) { wide.add(x); });
  return wide.value();
}

// What a thread holds of a sum, or of an extreme.
template <class V, bool kSum> struct Fold;
template <class V> struct Fold<V, true> {
  PairSum sum;
  __device__ explicit Fold(Reduction) {}
  __device__ void add(const V* x) { sum.add(load(x)); }
  __device__ void add(const Fold& other) { sum.add(other.sum); }
  __device__ Fold from(int lane) const {
    Fold other(*this);
    other.sum.high = __shfl_down_sync(~0u, sum.high, lane);
    other.sum.low = __shfl_down_sync(~0u, sum.low, lane);
    other.sum.lossy = __shfl_down_sync(~0u, int(sum.lossy), lane);
    return other;
  }
  // each(f): f with every addend.
  template <class Each> __device__ double value(Reduction reduce, int64_t n, const Each& each) const {
    const double total = sum.lossy ? wide_sum<V>(each) : sum.value();
    return reduce == Reduction::mean ? total / double(n) : total;
  }
};
template <class V> struct Fold<V, false> {
  using A = typename Accumulator<V>::type;
  Extreme<A> extreme;
  bool any = false;
  __device__ explicit Fold(Reduction reduce) : extreme{A(0), reduce == Reduction::max} {}
  __device__ void take(A x) {
    if (any) extreme.add(x);
    else extreme.best = x;
    any = true;
  }
  __device__ void add(const V* x) { take(load(x)); }
  __device__ void add(const Fold& other) {
    if (other.any) take(other.extreme.best);
  }
  __device__ Fold from(int lane) const {
    Fold other(*this);
    other.extreme.best = __shfl_down_sync(~0u, extreme.best, lane);
    other.any = __shfl_down_sync(~0u, int(any), lane);
    return other;
  }
  template <class Each> __device__ double value(Reduction, int64_t, const Each&) const { return extreme.best; }
};

template <class V, bool kSum>
__global__ void __launch_bounds__(kThreads, 4)
    reduce_kernel(const RowSet set, const PointSet<V> features, int64_t width, Divisor by_width, Reduction reduce,
                  int64_t rows, V* out) {
  __shared__ int heavy_count;
  __shared__ int heavy[kThreads];
  __shared__ alignas(16) char raw[kWarps * sizeof(Fold<V, kSum>)];
  Fold<V, kSum>* parts = reinterpret_cast<Fold<V, kSum>*>(raw);
  if (threadIdx.x == 0) heavy_count = 0;
  __syncthreads();
  const int64_t begin = int64_t(blockIdx.x) * kThreads, item = begin + threadIdx.x;
  const auto row_of = [&](int64_t k) { return k < kDivisible ? int64_t(by_width.quotient(uint32_t(k))) : k / width; };
  const int64_t known = min(rows, int64_t(*set.rows));
  if (item < known * width) {
    const int64_t row = row_of(item), column = item - row * width;
    const int n = set.counts[row];
    if (n > kHeavy) {
      heavy[atomicAdd(&heavy_count, 1)] = threadIdx.x;
    } else {
      const uint32_t* order = set.order + set.start[row];
      Fold<V, kSum> fold(reduce);
      for (int j = 0; j < n; j += 4) {
        V x[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (j + k < n) x[k] = features_of(features, order[j + k])[column];
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (j + k < n) fold.add(x + k);
        }
      }
      const double value = fold.value(reduce, n, [&](const auto& add) {
        RC_ROLLED for (int j = 0; j < n; ++j) add(load(features_of(features, order[j]) + column));
      });
      put(out + set.place(row) * width + column, value);
    }
  }
  __syncthreads();
  for (int h = 0; h < heavy_count; ++h) {
    const int64_t row = row_of(begin + heavy[h]), column = begin + heavy[h] - row * width;
    const int n = set.counts[row];
    const uint32_t* order = set.order + set.start[row];
    Fold<V, kSum> fold(reduce);
    for (int j = threadIdx.x; j < n; j += kThreads) fold.add(features_of(features, order[j]) + column);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const Fold<V, kSum> other = fold.from(step);
      if (threadIdx.x % 32 < step) fold.add(other);
    }
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = fold;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kWarps; ++w) fold.add(parts[w]);
      const double value = fold.value(reduce, n, [&](const auto& add) {
        RC_ROLLED for (int j = 0; j < n; ++j) add(load(features_of(features, order[j]) + column));
      });
      put(out + set.place(row) * width + column, value);
    }
    __syncthreads();
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

template <class V>
__global__ void __launch_bounds__(kThreads)
    points_kernel(const RowSet set, const PointSet<V> features, uint32_t width, Divisor by_width, int64_t most,
                  int64_t rows, V* out) {
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
  const int64_t cloud_bits = (g.grid.cells() + 255) / 256 * 256;
  const bool divides = cloud_bits > 0 && cloud_bits < kDivisible;
  return {g.rows, g.start, g.order, counts, g.slot, g.hashed ? g.keys : nullptr, Divisor::of(divides ? cloud_bits : 1),
          g.grid.cells(), cloud_bits, dense};
}

}  // namespace

void cuda::reduce_groups(const VoxelGroups& g, Reduction reduce, const voxel::Points& features, const int32_t* counts,
                         int64_t rows, int64_t most, bool dense, void* out, cudaStream_t queue) {
  const int64_t width = features.rows.width;
  if (rows == 0 || width == 0) return;
  const RowSet set = row_set(g, counts ? counts : reinterpret_cast<int32_t*>(g.counts), dense);
  const Divisor by_width = Divisor::of(width);
  if (reduce == Reduction::points) {
    const auto copy = [&](auto v) {
      using V = decltype(v);
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
    const auto launch = [&](auto kernel) {
      kernel<<<blocks_for(rows * width, kThreads), kThreads, 0, queue>>>(set, PointSet<V>::of(features), width,
                                                                         by_width, reduce, rows, static_cast<V*>(out));
    };
    if (reduce == Reduction::sum || reduce == Reduction::mean) launch(reduce_kernel<V, true>);
    else launch(reduce_kernel<V, false>);
  });
}

}  // namespace robocache
