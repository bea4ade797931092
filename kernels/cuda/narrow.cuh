// Narrow rows and quaternions: a lane a row, through shared memory.
//
// A row of 7 columns is neither 16 bytes wide nor 16-byte aligned, but the rows that 32 neighbouring targets need lie
// together. The warp copies that span with 16-byte asynchronous copies (cp.async) into its shared memory; each lane then
// makes its own row from there, its stencil in registers; and the output tile, staged the same way, leaves in stores of
// several values where it can. The span is guessed from a steady rate, so that it is on its way while the stamps are
// searched; a wrong guess is copied again, and a span that does not fit (sparse targets) is read where it lies.
//
// Shared: `room` bytes of samples, then A[32][D] of output, each warp its own. A lane's row starts D (out) or about
//         D x samples a target (in) words after its neighbour's: no bank conflicts for odd D, two- to four-way for others.
#pragma once
#include "tasks.cuh"

namespace robocache {
namespace {

// Elements [low, high) of the stream's values, copied to `at`.
template <class V> struct Span {
  int64_t low, high;
  const V* at;
  __device__ bool holds(int64_t first, int64_t stop) const { return low <= first && stop <= high; }
};

// Starts copying [low, high) into shared memory, in aligned blocks of 16 bytes; false where it does not fit. The first
// and the last block may hold neighbours' values, too, but never what lies behind the stream's `end`.
template <class V> __device__ bool begin_copy(const V* values, int64_t end, int64_t low, int64_t high, char* shared,
                                              unsigned room, Span<V>* span) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(values + low), from = begin & ~uintptr_t(15);
  const int64_t wanted = (high - low) * int64_t(sizeof(V)) + int64_t(begin - from);
  if (high <= low || wanted > int64_t(room)) return false;
  const int64_t there = reinterpret_cast<uintptr_t>(values + end) - from;
  const unsigned bytes = unsigned(wanted), whole = (bytes + 15) & ~15u, stop = whole <= there ? whole : bytes & ~15u;
  const unsigned to = unsigned(__cvta_generic_to_shared(shared)), lane = threadIdx.x % 32;
#pragma unroll 1
  for (unsigned i = lane * 16; i < stop; i += 512) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i) : "memory");
  }
  if (stop < bytes) {  // the stream's last values
    const unsigned i = stop + lane * unsigned(sizeof(V));
    if (i < bytes) *reinterpret_cast<V*>(shared + i) = *reinterpret_cast<const V*>(from + i);
  }
  *span = {low, high, reinterpret_cast<const V*>(shared + (begin - from))};
  return true;
}
__device__ void end_copy() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
}

// The columns of one row, eight at a time: the row's width is no constant, but its first eight are one straight piece.
template <class Column> __device__ void each_column(int dim, const Column& column) {
  for (int c0 = 0; c0 < dim; c0 += 8) {
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      if (c0 + u < dim) column(c0 + u);
    }
  }
}

// One row into y; x: the episode's samples, `stride` elements apart. False where it is not valid after all (a quaternion
// without direction).
template <class V, class A, class Time, class I>
__device__ bool narrow_row(const Source& s, const Near<Time>& d, const Stencil<A, int>& st, const V* x, I stride, A* y) {
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
#pragma unroll 2
      for (int c = 0; c < dim; ++c) y[c] = copy ? wrap(A(load(a + c))) : lerp_angle(w, A(load(a + c)), A(load(b + c)));
      return true;
    case Mode::mean:
      if (st.mean) {
        const int samples = st.second - st.first;
        const bool repeats = repeats_in(d.t + st.first, samples);
        const A count = A(samples);
#pragma unroll 1
        for (int c = 0; c < dim; ++c) {
          if (repeats) {
            y[c] = mean_of_last<A>(a + c, stride, d.t + st.first, samples);
            continue;
          }
          const A first = load(a + c);
          A sum = A(0);
#pragma unroll 4
          for (int j = 1; j < samples; ++j) sum += A(load(a + j * stride + c)) - first;
          y[c] = first + sum / count;
        }
        return true;
      }
      break;
    default: break;
  }
  each_column(dim, [&](int c) {
    const A x0 = load(a + c), x1 = load(b + c);
    y[c] = copy ? x0 : lerp(w, x0, x1);
  });
  return true;
}

// The samples that the mode reads for one target: [first, stop).
template <class A, class Time>
__device__ void reach(const Source& s, const Near<Time>& d, const Stencil<A, int>& st, int* first, int* stop) {
  *first = st.first;
  *stop = st.mean ? st.second : st.second + 1;
  if (s.mode == Mode::cubic && st.first != st.second) {
    const int before = before_run(d.t, st.first);
    *first = before < 0 ? *first : before;
    *stop = *stop < d.n ? last_of_run(d.t, d.n, *stop) + 1 : *stop;
  }
}

// The output tile leaves shared memory: N values a store where they are one piece, else column by column.
template <class A> __device__ void write_tile(const Source& s, const Tile& tile, const A* from) {
  const unsigned lane = threadIdx.x % 32, dim = unsigned(s.dim), total = unsigned(tile.rows) * dim;
  const unsigned column = unsigned(s.column);
  if (s.alone) {  // rows follow each other without a gap: one row of `total` columns
    constexpr unsigned N = sizeof(A) == 8 ? 2 : 4;  // 16 bytes of shared memory a lane: no bank conflicts
    for (unsigned e = lane * N; e + N <= total; e += 32 * N) {
      const Pack<A, N> y = *reinterpret_cast<const Pack<A, N>*>(from + e);
      store_values(tile, 0, e, y.v);
    }
    const unsigned rest = total & ~(N - 1);
    if (lane < total - rest) {
      const A y[1] = {from[rest + lane]};
      store_values(tile, 0, rest + lane, y);
    }
  } else if (s.fours) {
    for (unsigned e = lane; e < total / 4; e += 32) {
      const unsigned r = s.packs.quotient(e);
      const Pack<A, 4> y = *reinterpret_cast<const Pack<A, 4>*>(from + 4 * e);
      store_values(tile, r, column + 4 * e - r * dim, y.v);
    }
  } else {
    for (unsigned e = lane; e < total; e += 32) {
      const unsigned r = s.packs.quotient(e);
      const A y[1] = {from[e]};
      store_values(tile, r, column + e - r * dim, y);
    }
  }
}

// room: bytes of `shared` for samples
template <class V, class Time>
__device__ void narrow_tile(const Source& s, const Cursor<Time>& c, const Output& out, int64_t row0, int64_t total,
                            int stream, char* shared, unsigned room) {
  using A = typename Accumulator<V>::type;
  const int lane = threadIdx.x % 32, dim = int(s.dim);
  const V* values = static_cast<const V*>(s.values);
  const Near<Time> d = near(c, s);
  const bool packed = s.value_row_stride == s.dim, some = d.n > 0;

  // From what the first lane needs to what the last one does, if time and memory run alike.
  Span<V> span;
  bool staged = false;
  const auto copy_rows = [&](int first, int stop) {
    const int64_t low = __shfl_sync(~0u, d.base + first * dim, 0), high = __shfl_sync(~0u, d.base + stop * dim, 31);
    staged = packed && begin_copy(values, s.end, low, high, shared, room, &span);
  };
  copy_rows(d.guess > 2 ? d.guess - 2 : 0, d.guess + 4 < d.n ? d.guess + 4 : d.n);

  const Stencil<A, int> st = stencil_of<A>(s, c, d);
  if (packed) {
    int first = 0, stop = 0;
    if (some) reach(s, d, st, &first, &stop);
    const auto held = [&] { return !some || span.holds(d.base + int64_t(first) * dim, d.base + int64_t(stop) * dim); };
    if (!staged || !__all_sync(~0u, held())) {
      end_copy();  // what is on its way must not overtake what comes
      copy_rows(first, stop);
      staged = staged && __all_sync(~0u, held());
    }
  }
  end_copy();

  A* rows = reinterpret_cast<A*>(shared + room);
  A* y = rows + lane * dim;
  bool good = true;
  if (!some) {
    for (int i = 0; i < dim; ++i) y[i] = A(NAN);
  } else if (staged) {
    good = narrow_row(s, d, st, span.at + int(d.base - span.low), dim, y);
  } else {
    good = narrow_row(s, d, st, values + d.base, s.value_row_stride, y);
  }
  const Tile tile = Tile::at(out, row0, total, stream);
  if (lane < tile.rows) tile.valid[lane * tile.streams] = st.valid && good;
  __syncwarp();
  write_tile(s, tile, rows);
}

}  // namespace
}  // namespace robocache
