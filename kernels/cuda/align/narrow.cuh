// Narrow rows and quaternions: a lane a row, through shared memory.
//
// A row of 7 columns is neither 16 bytes wide nor 16-byte aligned, but the rows that 32 neighbouring targets need lie
// together. The warp copies that span with 16-byte asynchronous copies (cp.async) into its shared memory; each lane
// then makes its own row from there, its stencil in registers; and the output tile, staged the same way, leaves in
// stores of several values where it can. The span is guessed from a steady rate, so that it is on its way while the
// stamps are searched; a wrong guess is copied again, and a span that does not fit (sparse targets) is read where it
// lies.
//
// Shared: `staging` bytes of samples, then 32 x D of output (values in lean kernels, else accumulators), each warp its
// own.
//         A lane's row starts D (out) or about D x samples a target (in) words after its neighbour's: no bank conflicts
//         for odd D, two- to four-way for others.
#pragma once
#include "cuda/common/shared.cuh"
#include "tasks.cuh"

namespace robocache::align {
namespace {

constexpr unsigned kOverread = 64;  // bytes behind the samples that linear_row may look at: 7 values of 8 bytes
// A copy, or what lies between two rows; y: accumulators, or values of the output. Eight columns at a time, for the
// width is no constant; in shared memory (kShared) what lies behind a row may be read, so that only stores have a
// condition.
template <bool kShared, class V, class A, class R>
__device__ void linear_row(int dim, const Stencil<A, int>& stencil, const V* a, const V* b, R* y) {
  const bool copy = stencil.first == stencil.second;
  for (int c0 = 0; c0 < dim; c0 += 8) {
#pragma unroll
    for (int c = c0; c < c0 + 8; ++c) {
      const bool wanted = c < dim;
      if (!kShared && !wanted) break;
      const A x0 = load(a + c), x1 = load(b + c);
      const A value = copy ? x0 : lerp(stencil.weight, x0, x1);
      if (wanted) store(y + c, value);
    }
  }
}

// A row whose elements take more than linear_row's; one at a time.
template <class Op, class V, class A>
__device__ void elements_row(const Op& op, int dim, const Stencil<A, int>& stencil, const V* a, const V* b, A* y) {
  const bool copy = stencil.first == stencil.second;
#pragma unroll 1
  for (int c = 0; c < dim; ++c) {
    const A x0 = load(a + c);
    y[c] = copy ? op.copy(x0) : op.between(stencil.weight, x0, A(load(b + c)));
  }
}

// One row of a formula into y; x: the episode's samples, `stride` elements apart: in shared memory where it is an int.
// False where the row is one for linear_row, which all formulas share. `good` becomes false where the row is not valid
// after all (a quaternion without direction), `care` true where it is one for careful_tile().
template <class Op, class V, class A, class Time, class I>
__device__ __forceinline__ bool formula_row(const Op& op, int dim, const Window<Time>& window,
                                            const Stencil<A, int>& stencil, const V* x, I stride, A* y, bool* good,
                                            bool* care) {
  const V *a = x + stencil.first * stride, *b = x + stencil.second * stride;
  const bool copy = stencil.first == stencil.second;
  if constexpr (Op::kShape == Shape::quaternion) {
    *good = Op::row(copy, stencil.weight, a, b, y);
    return true;
  } else if constexpr (Op::kShape == Shape::four) {
    if (copy) return false;
    const Knots<A, int> k = knots_at(window.t, window.n, stencil);
    const V *before = k.before >= 0 ? x + k.before * stride : a, *after = k.after >= 0 ? x + k.after * stride : b;
#pragma unroll 1
    for (int c = 0; c < dim; ++c) {
      y[c] = pchip(k, stencil.weight, A(load(before + c)), A(load(a + c)), A(load(b + c)), A(load(after + c)));
    }
    return true;
  } else if constexpr (std::is_same_v<Op, Mean>) {
    if (!stencil.bin) return false;
    const A per_count = A(1) / A(stencil.second - stencil.first);
#pragma unroll 1
    for (int c = 0; c < dim; ++c) {
      const A first = load(a + c);
      A sum = A(0);
      for (int j = 1; j < stencil.second - stencil.first; ++j) sum += A(load(a + j * stride + c)) - first;
      y[c] = fused(sum, per_count, first);
      *care |= y[c] != y[c];
    }
    return true;
  } else if constexpr (std::is_same_v<Op, Angle<A>>) {
    elements_row(op, dim, stencil, a, b, y);
    return true;
  } else {
    return false;
  }
}

// N values from shared memory to the output. R: how they lie there, accumulators or the output's type O.
template <int N, class O, class R> __device__ void put(const Tile& tile, unsigned row, unsigned column, const R* from) {
  const Pack<R, N> y = *reinterpret_cast<const Pack<R, N>*>(from);
  if constexpr (std::is_same_v<O, R>) {
    store_streaming(reinterpret_cast<Pack<O, N>*>(reinterpret_cast<O*>(tile.data) + row * tile.width + column), y);
  } else {
    store_values<O>(tile, row, column, y.v);
  }
}

// The output tile leaves shared memory: N values a store where they are one piece, else column by column.
template <class O, class R> __device__ void write_tile(const Source& s, const Tile& tile, const R* from) {
  const unsigned lane = threadIdx.x % 32, dim = unsigned(s.dim), total = unsigned(tile.rows) * dim;
  const unsigned column = unsigned(s.column);
  if (s.whole_rows) {  // rows follow each other without a gap: one row of `total` columns
    constexpr unsigned N = 16 / sizeof(R);
    for (unsigned e = lane * N; e + N <= total; e += 32 * N) put<N, O>(tile, 0, e, from + e);
    const unsigned rest = total & ~(N - 1);
    if (lane < total - rest) put<1, O>(tile, 0, rest + lane, from + rest + lane);
  } else if (s.by_four) {
    for (unsigned e = lane; e < total / 4; e += 32) {
      const unsigned r = s.accesses.quotient(e);
      put<4, O>(tile, r, column + 4 * e - r * dim, from + 4 * e);
    }
  } else {
    for (unsigned e = lane; e < total; e += 32) {
      const unsigned r = s.accesses.quotient(e);
      put<1, O>(tile, r, column + e - r * dim, from + e);
    }
  }
}

// slerp where a quaternion is one aligned access, of the samples and of the output: not through shared memory. The
// guess is fetched ahead, so that it is on its way while the stamps are searched.
template <class O, class V, class Time>
__device__ __forceinline__ void quaternion_tile(const Source& s, const Cursor<Time>& c, const Window<Time>& window,
                                                const TileRows& tile_rows) {
  using A = typename Accumulator<V>::type;
  const int lane = threadIdx.x % 32;
  const V* x = static_cast<const V*>(s.values) + window.base;
  if (window.n > 0) asm volatile("prefetch.global.L1 [%0];" ::"l"(x + window.guess * s.value_row_stride));
  const Stencil<A, int> stencil = stencil_of<Mode::slerp, A>(s, c, window);
  A q[4] = {not_a_number<A>(), not_a_number<A>(), not_a_number<A>(), not_a_number<A>()};
  bool valid = stencil.valid;
  if (window.n > 0) {
    const Pack<V, 4> first = load_pack<4>(x + stencil.first * s.value_row_stride);
    const Pack<V, 4> second = load_pack<4>(x + stencil.second * s.value_row_stride);
    valid &= Slerp::row(stencil.first == stencil.second, stencil.weight, first.v, second.v, q);
  }
  const Tile tile = tile_rows.tile(s);
  if (lane < tile.rows) {
    tile.valid[lane * tile.streams] = valid;
    store_values<O>(tile, lane, unsigned(s.column), q);
  }
}

// Samples [first, stop) that one target's value depends on.
template <Mode kOnly, class A, class Time>
__device__ Reach<int> reach_of(const Source& s, const Window<Time>& window, const Stencil<A, int>& stencil) {
  return with_formula<A>(mode_of<kOnly>(s), s.turn, [&]<class Op>(const Op&) __attribute__((always_inline)) {
    return Op::reach(window.t, window.n, stencil);
  });
}

// staging: bytes of `shared` for samples, kOverread of them never filled. True where careful_tile() has to follow.
template <Mode kOnly, class V, class Time>
__device__ __forceinline__ bool narrow_tile(const Source& s, const Cursor<Time>& c, const TileRows& tile_rows,
                                            char* shared, unsigned staging) {
  using A = typename Accumulator<V>::type;
  const int lane = threadIdx.x % 32, dim = int(s.dim);
  const V* values = static_cast<const V*>(s.values);
  const Window<Time> window = window_of(c, s);
  if constexpr (kOnly == kAnyMode || kOnly == Mode::slerp) {
    if (s.route == Route::quaternions) {
      quaternion_tile<OutputOf<kOnly, V>, V>(s, c, window, tile_rows);
      return false;
    }
  }
  // Elements are counted in 32 bits; an episode of more of them is read where it lies.
  const bool packed = __all_sync(~0u, window.n <= s.counted), some = window.n > 0;

  // From what the first lane needs to what the last one does, if time and memory run alike.
  Span span{0, 0, kFar};
  const auto copy_rows = [&](int first, int stop) {
    const int64_t low = __shfl_sync(~0u, window.base + first * dim, 0);
    const int64_t high = __shfl_sync(~0u, window.base + stop * dim, 31);
    span = begin_copy(values, window.base, s.values_end, low, high, shared, staging - kOverread);
  };
  if (packed) copy_rows(max(window.guess - 2, 0), min(window.guess + 4, window.n));

  const Stencil<A, int> stencil = stencil_of<kOnly, A>(s, c, window);
  bool staged = packed;
  if (packed) {
    const Reach<int> reach = some ? reach_of<kOnly>(s, window, stencil) : Reach<int>{0, 0};
    // one comparison for both ends: what lies before the span is a huge unsigned number
    const auto held = [&] {
      const int spare = span.size - (reach.stop - reach.first) * dim;
      const unsigned begin = unsigned(span.delta) + unsigned(reach.first * dim);
      return __all_sync(~0u, !some || (spare >= 0 && begin <= unsigned(spare)));
    };
    if (!held()) {
      end_copy();  // what is on its way must not overtake what comes
      copy_rows(reach.first, reach.stop);
      staged = held();
    }
  }
  end_copy();

  using R = std::conditional_t<kOnly == Mode::linear, V, A>;
  R* rows = reinterpret_cast<R*>(shared + staging);
  R* y = rows + lane * dim;
  bool good = true, care = false;
  const auto make = [&](const V* x, auto stride) __attribute__((always_inline)) {
    if constexpr (kBins<kOnly>) {
      care = stencil.bin && needs_care(s, window.t + stencil.first, stencil.second - stencil.first);
      if (care) return;
    }
    if constexpr (kOnly != Mode::linear) {
      const bool made = with_formula<A>(mode_but_for_bins<kOnly>(s), s.turn, [&](const auto& op)
                                            __attribute__((always_inline)) {
        return formula_row(op, dim, window, stencil, x, stride, y, &good, &care);
      });
      if (made) return;
    }
    constexpr bool kShared = std::is_same_v<decltype(stride), int>;
    linear_row<kShared>(dim, stencil, x + stencil.first * stride, x + stencil.second * stride, y);
  };
  if (!some) {
    for (int i = 0; i < dim; ++i) store(y + i, not_a_number<A>());
  } else if (staged) {
    make(reinterpret_cast<const V*>(shared + span.skip) + span.delta, dim);
  } else {
    make(values + window.base, s.value_row_stride);  // int64_t
  }
  const Tile tile = tile_rows.tile(s);
  if (lane < tile.rows) tile.valid[lane * tile.streams] = stencil.valid && good;
  __syncwarp();
  write_tile<OutputOf<kOnly, V>>(s, tile, rows);
  return care;
}

}  // namespace
}  // namespace robocache::align
