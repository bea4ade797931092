// Narrow rows and quaternions: a lane a row, through shared memory.
//
// A row of 7 columns is neither 16 bytes wide nor 16-byte aligned, but the rows that 32 neighbouring targets need lie
// together. The warp copies that span with 16-byte asynchronous copies (cp.async) into its shared memory; each lane
// then makes its own row from there, its stencil in registers; and the output tile, staged the same way, leaves in
// stores of several values where it can. The span is guessed from a steady rate, so that it is on its way while the
// stamps are searched; a wrong guess is copied again, and a span that does not fit (sparse targets) is read where it
// lies.
//
// Shared: `room` bytes of samples, then 32 x D of output (values in lean kernels, else accumulators), each warp its
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
__device__ void linear_row(int dim, const Stencil<A, int>& st, const V* a, const V* b, R* y) {
  const bool copy = st.first == st.second;
  for (int c0 = 0; c0 < dim; c0 += 8) {
#pragma unroll
    for (int c = c0; c < c0 + 8; ++c) {
      const bool wanted = c < dim;
      if (!kShared && !wanted) break;
      const A x0 = load(a + c), x1 = load(b + c);
      const A value = copy ? x0 : lerp(st.weight, x0, x1);
      if (wanted) store(y + c, value);
    }
  }
}

// One row into y; x: the episode's samples, `stride` elements apart: in shared memory where it is an int. False where
// it is not valid after all (a quaternion without direction).
template <class V, class A, class Time, class I>
__device__ bool narrow_row(const Source& s, const Near<Time>& d, const Stencil<A, int>& st, const V* x, I stride,
                           A* y) {
  const int dim = int(s.dim);
  const V *a = x + st.first * stride, *b = x + st.second * stride;
  const bool copy = st.first == st.second;
  const A w = st.weight;
  switch (s.mode) {
    case Mode::slerp:
    case Mode::pose: {
      const int position = s.mode == Mode::pose ? 3 : 0;
      if (position) {
#pragma unroll
        for (int c = 0; c < 3; ++c) y[c] = copy ? A(load(a + c)) : lerp(w, A(load(a + c)), A(load(b + c)));
      }
      A q0[4], q1[4], q[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        q0[c] = load(a + position + c);
        q1[c] = load(b + position + c);
      }
      const bool good = copy ? normalize(q0, q) : slerp(w, q0, q1, q);
#pragma unroll
      for (int c = 0; c < 4; ++c) y[position + c] = q[c];
      return good;
    }
    case Mode::cubic: {
      if (!copy) {
        const Knots<A, int> k = knots_at(d.t, d.n, st);
        const V *before = k.before >= 0 ? x + k.before * stride : a, *after = k.after >= 0 ? x + k.after * stride : b;
#pragma unroll 1
        for (int c = 0; c < dim; ++c) {
          y[c] = pchip(k, w, A(load(before + c)), A(load(a + c)), A(load(b + c)), A(load(after + c)));
        }
        return true;
      }
      break;
    }
    case Mode::angle:
#pragma unroll 1
      for (int c = 0; c < dim; ++c) y[c] = copy ? wrap(A(load(a + c))) : lerp_angle(w, A(load(a + c)), A(load(b + c)));
      return true;
    case Mode::mean:
      if (st.mean) {
        const int samples = st.second - st.first;
        const bool repeats = repeats_in(d.t + st.first, samples);
        const A per_count = A(1) / A(samples);
#pragma unroll 1
        for (int c = 0; c < dim; ++c) {
          if (repeats) {
            y[c] = mean_of_last<A>(a + c, stride, d.t + st.first, samples);
            continue;
          }
          const A first = load(a + c);
          A sum = A(0);
          for (int j = 1; j < samples; ++j) sum += A(load(a + j * stride + c)) - first;
          y[c] = fused(sum, per_count, first);
        }
        return true;
      }
      break;
    default: break;
  }
  linear_row<std::is_same_v<I, int>>(dim, st, a, b, y);
  return true;
}

// The samples that the mode reads for one target: [first, stop).
template <bool kLinear, class A, class Time>
__device__ void reach(const Source& s, const Near<Time>& d, const Stencil<A, int>& st, int* first, int* stop) {
  *first = st.first;
  *stop = st.mean ? st.second : st.second + 1;
  if (mode_of<kLinear>(s) == Mode::cubic && st.first != st.second) {
    const int before = before_run(d.t, st.first);
    *first = before < 0 ? *first : before;
    *stop = *stop < d.n ? last_of_run(d.t, d.n, *stop) + 1 : *stop;
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
  if (s.alone) {  // rows follow each other without a gap: one row of `total` columns
    constexpr unsigned N = 16 / sizeof(R);
    for (unsigned e = lane * N; e + N <= total; e += 32 * N) put<N, O>(tile, 0, e, from + e);
    const unsigned rest = total & ~(N - 1);
    if (lane < total - rest) put<1, O>(tile, 0, rest + lane, from + rest + lane);
  } else if (s.fours) {
    for (unsigned e = lane; e < total / 4; e += 32) {
      const unsigned r = s.packs.quotient(e);
      put<4, O>(tile, r, column + 4 * e - r * dim, from + 4 * e);
    }
  } else {
    for (unsigned e = lane; e < total; e += 32) {
      const unsigned r = s.packs.quotient(e);
      put<1, O>(tile, r, column + e - r * dim, from + e);
    }
  }
}

// slerp where a quaternion is one aligned access, of the samples and of the output: no way through shared memory. The
// guess is fetched ahead, so that it is on its way while the stamps are searched.
template <class V, class Time>
__device__ __forceinline__ void quaternion_tile(const Source& s, const Cursor<Time>& c, const Near<Time>& d,
                                                const Place& place) {
  using A = typename Accumulator<V>::type;
  const int lane = threadIdx.x % 32;
  const V* x = static_cast<const V*>(s.values) + d.base;
  if (d.n > 0) asm volatile("prefetch.global.L1 [%0];" ::"l"(x + d.guess * s.value_row_stride));
  const Stencil<A, int> st = stencil_of<false, A>(s, c, d);
  A q[4] = {A(NAN), A(NAN), A(NAN), A(NAN)};
  bool valid = st.valid;
  if (d.n > 0) {
    const Pack<V, 4> first = load_pack<4>(x + st.first * s.value_row_stride);
    const Pack<V, 4> second = load_pack<4>(x + st.second * s.value_row_stride);
    A q0[4], q1[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      q0[i] = load(first.v + i);
      q1[i] = load(second.v + i);
    }
    valid &= st.first == st.second ? normalize(q0, q) : slerp(st.weight, q0, q1, q);
  }
  const Tile tile = place.tile(s);
  if (lane < tile.rows) {
    tile.valid[lane * tile.streams] = valid;
    store_values<void>(tile, lane, unsigned(s.column), q);
  }
}

// room: bytes of `shared` for samples, kOverread of them never filled
template <bool kLinear, class V, class Time>
__device__ __forceinline__ void narrow_tile(const Source& s, const Cursor<Time>& c, const Place& place, char* shared,
                                            unsigned room) {
  using A = typename Accumulator<V>::type;
  const int lane = threadIdx.x % 32, dim = int(s.dim);
  const V* values = static_cast<const V*>(s.values);
  const Near<Time> d = near(c, s);
  if constexpr (!kLinear) {
    if (s.way == Way::quaternion) return quaternion_tile<V>(s, c, d, place);
  }
  // Elements are counted in 32 bits; an episode of more of them is read where it lies.
  const bool packed = __all_sync(~0u, d.n <= s.most), some = d.n > 0;

  // From what the first lane needs to what the last one does, if time and memory run alike.
  Span span{0, 0, kFar};
  const auto copy_rows = [&](int first, int stop) {
    const int64_t low = __shfl_sync(~0u, d.base + first * dim, 0), high = __shfl_sync(~0u, d.base + stop * dim, 31);
    span = begin_copy(values, d.base, s.end, low, high, shared, room - kOverread);
  };
  if (packed) copy_rows(d.guess > 2 ? d.guess - 2 : 0, d.guess + 4 < d.n ? d.guess + 4 : d.n);

  const Stencil<A, int> st = stencil_of<kLinear, A>(s, c, d);
  bool staged = packed;
  if (packed) {
    int first = 0, stop = 0;
    if (some) reach<kLinear>(s, d, st, &first, &stop);
    // one comparison for both ends: what lies before the span is a huge unsigned number
    const auto held = [&] {
      const int spare = span.size - (stop - first) * dim;
      return __all_sync(~0u, !some || (spare >= 0 && unsigned(span.delta) + unsigned(first * dim) <= unsigned(spare)));
    };
    if (!held()) {
      end_copy();  // what is on its way must not overtake what comes
      copy_rows(first, stop);
      staged = held();
    }
  }
  end_copy();

  using R = std::conditional_t<kLinear, V, A>;
  R* rows = reinterpret_cast<R*>(shared + room);
  R* y = rows + lane * dim;
  const auto make = [&](const V* x, auto stride) {
    if constexpr (kLinear) {
      linear_row<std::is_same_v<decltype(stride), int>>(dim, st, x + st.first * stride, x + st.second * stride, y);
      return true;
    } else {
      return narrow_row(s, d, st, x, stride, y);
    }
  };
  bool good = true;
  if (!some) {
    for (int i = 0; i < dim; ++i) store(y + i, A(NAN));
  } else if (staged) {
    good = make(reinterpret_cast<const V*>(shared + span.skip) + span.delta, dim);
  } else {
    good = make(values + d.base, s.value_row_stride);  // int64_t
  }
  const Tile tile = place.tile(s);
  if (lane < tile.rows) tile.valid[lane * tile.streams] = st.valid && good;
  __syncwarp();
  write_tile<std::conditional_t<kLinear, V, void>>(s, tile, rows);
}

}  // namespace
}  // namespace robocache::align
