// Means that the quick loops of narrow.cuh and wide.cuh do not make: bins with repeated stamps, of many samples, or
// with infinities, and those of angles. They are rare, so a tile with one of them is looked at again, from the start,
// when the loops are done: nothing of theirs is alive then, so this costs them no registers, and it stands once in a
// kernel, whatever loops that has. (A call of a function that is not inlined costs them some, for what it saves.)
#pragma once
#include "tasks.cuh"

namespace robocache::align {
namespace {

// Value dtypes of a launch, besides one for all its streams:
struct AnyFloat {};  // float32, float16 and bfloat16 streams side by side
struct Any {};       // and float64

template <class V> constexpr bool kMixture = std::is_same_v<V, Any> || std::is_same_v<V, AnyFloat>;

// The tile of this warp, as fuse_kernel has it (none of these kernels takes several).
struct TileOf {
  int stream;
  int64_t row0;
  int rows;
  template <int Cap> __device__ TileOf(const Streams<Cap>& launch, const Targets& targets) {
    const uint32_t place = launch.count.quotient(blockIdx.x);
    stream = int(blockIdx.x - place * launch.count.d);
    row0 = launch.row0 + (int64_t(place) * kWarps + threadIdx.x / 32) * launch.rows;
    const int64_t left = targets.rows - row0;
    rows = left < launch.rows ? int(left) : int(launch.rows);
  }
};

template <Mode kOnly, class V, class Time, class A = typename Accumulator<V>::type>
__device__ __forceinline__ A careful_mean_at(const Source& s, int64_t element, const Time* t, int samples) {
  const V* x = static_cast<const V*>(s.values) + element;
  if (mode_of<kOnly>(s) == Mode::circular_mean) {
    return careful_mean<A>(CircularMean<A>{{{}, Turn<A>::from(s.turn)}}, x, s.value_row_stride, t, samples);
  }
  return careful_mean<A>(Mean(), x, s.value_row_stride, t, samples);
}

// The bins of the warp's tile, a lane an element. V: the launch's value dtype.
template <Mode kOnly, class V, class Time, int Cap>
__device__ __forceinline__ void careful_tile(const Streams<Cap>& launch, const Targets& targets, const Output& out) {
  __syncwarp();  // what is stored here comes after what was
  const TileOf at(launch, targets);
  const Source& s = launch.s[at.stream];
  const int lane = threadIdx.x % 32;
  int64_t first;
  const Time* stamps;
  int own = 0;
  {
    const Cursor<Time> c(launch, s, targets, 0, at.row0 + min(lane, at.rows - 1));
    const Window<Time> window = window_of(c, s);
    const Stencil<float, int> stencil = stencil_of<kOnly, float>(s, c, window);
    if (stencil.bin) own = stencil.second - stencil.first;
    first = window.base + stencil.first * s.value_row_stride;
    stamps = window.t + stencil.first;
  }
  const unsigned dim = unsigned(s.dim), total = unsigned(at.rows) * dim;
  for (unsigned begin = 0; begin < total; begin += 32) {
    const unsigned e = min(begin + lane, total - 1), row = e / dim, column = e - row * dim;
    const int samples = __shfl_sync(~0u, own, row);
    const int64_t element = __shfl_sync(~0u, first, row) + column;
    const Time* t = reinterpret_cast<const Time*>(__shfl_sync(~0u, reinterpret_cast<uintptr_t>(stamps), row));
    if (samples == 0 || begin + lane >= total) continue;
    const Tile tile = TileRows{out, launch.row_bytes, at.row0, at.rows}.tile(s);
    const auto make = [&]<class W>(W) {
      const typename Accumulator<W>::type y[1] = {careful_mean_at<kOnly, W>(s, element, t, samples)};
      store_values<OutputOf<kOnly, W>>(tile, row, unsigned(s.column) + column, y);
    };
    if constexpr (kMixture<V>) {
      switch (s.dtype) {
        case DType::f64:
          if constexpr (std::is_same_v<V, Any>) make(double());
          break;
        case DType::f32: make(float()); break;
        case DType::f16: make(Half()); break;
        default: make(BFloat16());
      }
    } else {
      make(V());
    }
  }
}

}  // namespace
}  // namespace robocache::align
