// Rows wider than a few sectors: the warp sweeps its tile's elements, neighbouring lanes on neighbouring columns, so
// that loads and stores are coalesced; VEC values an access (16 bytes where widths and addresses allow).
//
// Shared: Entry[32], each lane's stencil; for cubic Outer[32] behind.
#pragma once
#include "tasks.cuh"

namespace robocache::align {
namespace {

// What a row's elements are made of.
enum class Made : int {
  none,
  bin,   // as mean, and left to careful_tile()
  copy,  // of `first`
  two,   // of the two rows around the target
  pair,  // of a bin's two
  mean,  // of a bin; first: its first sample, `samples` how many it holds, weight: 1 / samples
};
template <class V, class A> struct Entry {
  const V *first, *second;
  A weight;
  Made made;
  int samples;
};

// cubic: the rows before and after these two (where there is none: the nearer of the two, and a negative `knots`
// index).
template <class V, class A> struct Outer {
  const V *before, *after;
  Knots<A, int> knots;
};

template <class V, class A, class Time>
__device__ Entry<V, A> entry_of(const Source& s, const Window<Time>& window, const Stencil<A, int>& stencil) {
  const V* x = static_cast<const V*>(s.values) + window.base;
  if (window.n == 0) return {nullptr, nullptr, A(0), Made::none, 0};
  const V* first = x + stencil.first * s.value_row_stride;
  if (stencil.bin) {
    const int samples = stencil.second - stencil.first;
    const Time* t = window.t + stencil.first;
    const Made made = needs_care(s, t, samples) ? Made::bin : Made::mean;
    if (samples == 2 && made == Made::mean) return {first, first + s.value_row_stride, A(0.5), Made::pair, 2};
    return {first, first, A(1) / A(samples), made, samples};
  }
  // by index: where a stride of 0 makes two rows one, they are still two
  const Made made = stencil.first == stencil.second ? Made::copy : Made::two;
  return {first, x + stencil.second * s.value_row_stride, stencil.weight, made, 0};
}

template <class V, class A, class Time>
__device__ Outer<V, A> outer_of(const Source& s, const Window<Time>& window, const Stencil<A, int>& stencil) {
  const V* x = static_cast<const V*>(s.values) + window.base;
  const Knots<A, int> k = knots_at(window.t, window.n, stencil);
  return {x + (k.before >= 0 ? k.before : stencil.first) * s.value_row_stride,
          x + (k.after >= 0 ? k.after : stencil.second) * s.value_row_stride, k};
}

// Where the difference of a pair is NaN: with an infinity, whose mean is one.
template <class A> __device__ A mean_of_pair(A x0, A x1) { return (x0 + x1) * A(0.5); }

// At most two rows an element: linear and the copying modes, angle. kBoth: every row has both, so there is nothing to
// ask. U elements' loads are issued before the first is used: two pairs of 16 bytes are 64 KiB an SM at half occupancy,
// four times what 3 TB/s at 700 ns needs; narrower ones, and one instead of two, are fewer bytes each, so more of them.
template <bool kBoth, class O, int VEC, class Op, class V, class A>
__device__ void sweep_two(const Op& op, const Source& s, const Entry<V, A>* entries, const Tile& tile) {
  constexpr bool kOne = Op::kShape == Shape::one;
  constexpr int U = sizeof(V) * VEC == 16 && !kOne ? 2 : 4;
  const unsigned accesses = unsigned(s.dim / VEC), total = unsigned(tile.rows) * accesses, column = unsigned(s.column);
  for (unsigned begin = threadIdx.x % 32; begin < total; begin += 32 * U) {
    Pack<V, VEC> a[U], b[U];
    unsigned row[U], at[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const unsigned e = begin + 32 * u;
      row[u] = s.accesses.quotient(e);
      at[u] = (e - row[u] * accesses) * VEC;
      if (e < total && (kBoth || entries[row[u]].made >= Made::copy)) {
        a[u] = load_pack<VEC>(entries[row[u]].first + at[u]);
        b[u] = kOne ? a[u] : load_pack<VEC>(entries[row[u]].second + at[u]);
      }
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (begin + 32 * u >= total) break;
      const A weight = entries[row[u]].weight;
      const Made made = kBoth ? Made::two : entries[row[u]].made;
      A y[VEC];
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        const A x0 = load(a[u].v + v);
        const A x1 = load(b[u].v + v);
        y[v] = made == Made::copy ? op.copy(x0) : op.between(weight, x0, x1);
        if constexpr (Op::kShape == Shape::bin) {
          if (made == Made::pair && y[v] != y[v]) y[v] = mean_of_pair(x0, x1);
        }
      }
      if (made < Made::copy) {
#pragma unroll
        for (int v = 0; v < VEC; ++v) y[v] = not_a_number<A>();
      }
      store_values<O>(tile, row[u], column + at[u], y);
    }
  }
}

// One element at a time, for formulas that have loads enough of their own.
template <class O, int VEC, class V, class A, class Formula>
__device__ void sweep_one(const Source& s, const Entry<V, A>* entries, const Tile& tile, const Formula& formula) {
  const unsigned accesses = unsigned(s.dim / VEC), total = unsigned(tile.rows) * accesses, column = unsigned(s.column);
  for (unsigned e = threadIdx.x % 32; e < total; e += 32) {
    const unsigned row = s.accesses.quotient(e), c = (e - row * accesses) * VEC;
    A y[VEC];
    if (entries[row].made < Made::copy) {
#pragma unroll
      for (int v = 0; v < VEC; ++v) y[v] = not_a_number<A>();
    } else {
      formula(entries[row], row, c, y);
    }
    store_values<O>(tile, row, column + c, y);
  }
}

template <class O, int VEC, class V, class A, class Quotient>
__device__ void cubic_rows(const Source& s, const Entry<V, A>* entries, const Outer<V, A>* outer, const Tile& tile,
                           const Quotient& quotient) {
  sweep_one<O, VEC>(s, entries, tile, [&](const Entry<V, A>& entry, unsigned row, unsigned c, A(&y)[VEC]) {
    const Pack<V, VEC> x0 = load_pack<VEC>(entry.first + c);
    if (entry.made == Made::copy) {
#pragma unroll
      for (int v = 0; v < VEC; ++v) y[v] = load(x0.v + v);
      return;
    }
    const Pack<V, VEC> x1 = load_pack<VEC>(entry.second + c), before = load_pack<VEC>(outer[row].before + c),
                       after = load_pack<VEC>(outer[row].after + c);
    const Knots<A, int> k = outer[row].knots;
    const A w = entry.weight;
    if (k.before >= 0 && k.after >= 0) {
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        y[v] = pchip_between(k, w, A(load(before.v + v)), A(load(x0.v + v)), A(load(x1.v + v)), A(load(after.v + v)),
                             quotient);
      }
    } else {  // the recording's first or last interval
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        y[v] = pchip(k, w, A(load(before.v + v)), A(load(x0.v + v)), A(load(x1.v + v)), A(load(after.v + v)));
      }
    }
  });
}

// All rows of a tile. float32's quotients are tried without their branches first, and where a lane met one out of range,
// the tile is made again: 1 % faster. bf16 packs have twice the elements, and 16 such tests are more instructions than
// their branches (370 for 348 million, at 81 % of the issue slots either way).
template <class O, int VEC, class V, class A>
__device__ void cubic_tile(const Source& s, const Entry<V, A>* entries, const Outer<V, A>* outer, const Tile& tile) {
  if constexpr (std::is_same_v<V, float>) {
    bool inside = true;
    cubic_rows<O, VEC>(s, entries, outer, tile, DivideInRange{inside});
    if (!__any_sync(~0u, !inside)) return;
  }
  cubic_rows<O, VEC>(s, entries, outer, tile, Divide());
}

// Sums in sample order, four rows' loads at once.
template <int VEC, class V, class A>
__device__ void mean_of(const Entry<V, A>& entry, int64_t stride, unsigned c, A (&y)[VEC]) {
  const Pack<V, VEC> x0 = load_pack<VEC>(entry.first + c);
  A sum[VEC] = {};
  for (int j = 1; j < entry.samples; j += 4) {
    Pack<V, VEC> next[4];
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (j + u < entry.samples) next[u] = load_pack<VEC>(entry.first + (j + u) * stride + c);
    }
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (j + u >= entry.samples) break;
#pragma unroll
      for (int v = 0; v < VEC; ++v) sum[v] += A(load(next[u].v + v)) - A(load(x0.v + v));
    }
  }
#pragma unroll
  for (int v = 0; v < VEC; ++v) y[v] = fused(sum[v], entry.weight, A(load(x0.v + v)));
}

// True where a lane made a NaN of a bin.
template <class O, int VEC, class V, class A>
__device__ bool mean_rows(const Source& s, const Entry<V, A>* entries, const Tile& tile) {
  bool numbers = true;
  sweep_one<O, VEC>(s, entries, tile, [&](const Entry<V, A>& entry, unsigned, unsigned c, A(&y)[VEC]) {
    if (entry.made == Made::mean) {
      mean_of<VEC>(entry, s.value_row_stride, c, y);
#pragma unroll
      for (int v = 0; v < VEC; ++v) numbers &= y[v] == y[v];
      return;
    }
    const Pack<V, VEC> x0 = load_pack<VEC>(entry.first + c), x1 = load_pack<VEC>(entry.second + c);
#pragma unroll
    for (int v = 0; v < VEC; ++v) {
      const A base = load(x0.v + v);
      y[v] = entry.made == Made::copy ? base : lerp(entry.weight, base, A(load(x1.v + v)));
      if (entry.made == Made::pair && y[v] != y[v]) y[v] = mean_of_pair(base, A(load(x1.v + v)));
    }
  });
  return !numbers;
}

// True where careful_tile() has to follow.
template <Mode kOnly, class V, int VEC, class Time>
__device__ __forceinline__ bool wide_tile(const Source& s, const Cursor<Time>& c, const TileRows& tile_rows,
                                          char* shared) {
  using A = typename Accumulator<V>::type;
  Entry<V, A>* entries = reinterpret_cast<Entry<V, A>*>(shared);
  Outer<V, A>* outer = reinterpret_cast<Outer<V, A>*>(entries + kRows);
  const int lane = threadIdx.x % 32;
  const Window<Time> window = window_of(c, s);
  const Stencil<A, int> stencil = stencil_of<kOnly, A>(s, c, window);
  const Entry<V, A> entry = entry_of<V>(s, window, stencil);
  entries[lane] = entry;
  if (mode_of<kOnly>(s) == Mode::cubic && entry.made == Made::two) outer[lane] = outer_of<V>(s, window, stencil);
  const Tile tile = tile_rows.tile(s);
  if (lane < tile.rows) tile.valid[lane * tile.streams] = stencil.valid;
  __syncwarp();
  if constexpr (kOnly == Mode::linear) {
    const bool both = __all_sync(~0u, entry.made == Made::two);
    both ? sweep_two<true, V, VEC>(Linear(), s, entries, tile) : sweep_two<false, V, VEC>(Linear(), s, entries, tile);
    return false;
  }
  using O = OutputOf<kOnly, V>;
  bool care = entry.made == Made::bin;
  with_formula<A>(mode_but_for_bins<kOnly>(s), s.turn, [&]<class Op>(const Op& op) __attribute__((always_inline)) {
    if constexpr (Op::kShape == Shape::four) {
      cubic_tile<O, VEC>(s, entries, outer, tile);
    } else if constexpr (std::is_same_v<Op, Mean>) {
      if (!__any_sync(~0u, entry.made == Made::mean)) return sweep_two<false, O, VEC>(op, s, entries, tile);
      care |= mean_rows<O, VEC>(s, entries, tile);
    } else if constexpr (Op::kShape == Shape::one || Op::kShape == Shape::two) {
      sweep_two<false, O, VEC>(op, s, entries, tile);
    }  // quaternions are never wide
  });
  return care;
}

}  // namespace
}  // namespace robocache::align
