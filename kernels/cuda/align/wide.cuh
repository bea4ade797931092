// Rows wider than a few sectors: the warp sweeps its tile's elements, neighbouring lanes on neighbouring columns, so
// that loads and stores are coalesced; VEC values an access (16 bytes where widths and addresses allow).
//
// Shared: Entry[32], each lane's stencil; for cubic Outer[32] behind.
#pragma once
#include "tasks.cuh"

namespace robocache::align {
namespace {

// What a row's elements need. first, second: the two rows around the target; or a bin's two, their mean lying half-way.
// mean: first is the bin's first sample, `samples` how many it holds, and `weight` 1 / samples; mean_of_last: second is
// the first one's stamp.
enum class Kind : int { none, copy, two, mean, mean_of_last };
template <class V, class A> struct Entry {
  const V *first, *second;
  A weight;
  Kind kind;
  int samples;
};

// cubic: the rows before and after these two (where there is none: the nearer of the two, and a negative `knots`
// index).
template <class V, class A> struct Outer {
  const V *before, *after;
  Knots<A, int> knots;
};

template <class V, class A, class Time>
__device__ Entry<V, A> entry_of(const Source& s, const Near<Time>& d, const Stencil<A, int>& st) {
  const V* x = static_cast<const V*>(s.values) + d.base;
  if (d.n == 0) return {nullptr, nullptr, A(0), Kind::none, 0};
  const V* first = x + st.first * s.value_row_stride;
  if (st.mean) {
    const int samples = st.second - st.first;
    const Time* t = d.t + st.first;
    if (repeats_in(t, samples)) return {first, reinterpret_cast<const V*>(t), A(0), Kind::mean_of_last, samples};
    return {first, first + s.value_row_stride, A(1) / A(samples), samples == 2 ? Kind::two : Kind::mean, samples};
  }
  // by index: where a stride of 0 makes two rows one, they are still two
  return {first, x + st.second * s.value_row_stride, st.weight, st.first == st.second ? Kind::copy : Kind::two, 0};
}

template <class V, class A, class Time>
__device__ Outer<V, A> outer_of(const Source& s, const Near<Time>& d, const Stencil<A, int>& st) {
  const V* x = static_cast<const V*>(s.values) + d.base;
  const Knots<A, int> k = knots_at(d.t, d.n, st);
  return {x + (k.before >= 0 ? k.before : st.first) * s.value_row_stride,
          x + (k.after >= 0 ? k.after : st.second) * s.value_row_stride, k};
}

// Which rows the elements of a tile need: both around the target, with nothing to ask; both, one or none; one or none.
enum class Rows : int { both, any, copies };

// At most two rows an element: linear and the copying modes, angle. U elements' loads are issued before the first is
// used: two pairs of 16 bytes are 64 KiB an SM at half occupancy, four times what 3 TB/s at 700 ns needs; narrower
// ones, and one instead of two, are fewer bytes each, so more of them.
template <Rows kNeeds, class O, int VEC, class V, class A, class Formula>
__device__ void sweep_two(const Source& s, const Entry<V, A>* entries, const Tile& tile, const Formula& formula) {
  constexpr int U = sizeof(V) * VEC == 16 && kNeeds != Rows::copies ? 2 : 4;
  constexpr bool kPlain = kNeeds == Rows::both;
  const unsigned packs = unsigned(s.dim / VEC), total = unsigned(tile.rows) * packs, column = unsigned(s.column);
  for (unsigned begin = threadIdx.x % 32; begin < total; begin += 32 * U) {
    Pack<V, VEC> a[U], b[U];
    unsigned row[U], at[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const unsigned e = begin + 32 * u;
      row[u] = s.packs.quotient(e);
      at[u] = (e - row[u] * packs) * VEC;
      if (e < total && (kPlain || entries[row[u]].kind != Kind::none)) {
        a[u] = load_pack<VEC>(entries[row[u]].first + at[u]);
        b[u] = kNeeds == Rows::copies ? a[u] : load_pack<VEC>(entries[row[u]].second + at[u]);
      }
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (begin + 32 * u >= total) break;
      const A weight = entries[row[u]].weight;
      const Kind kind = kPlain ? Kind::two : entries[row[u]].kind;
      A y[VEC];
#pragma unroll
      for (int v = 0; v < VEC; ++v)
        y[v] = formula(kind == Kind::copy, weight, A(load(a[u].v + v)), A(load(b[u].v + v)));
      if (kind == Kind::none) {
#pragma unroll
        for (int v = 0; v < VEC; ++v) y[v] = A(NAN);
      }
      store_values<O>(tile, row[u], column + at[u], y);
    }
  }
}

// One element at a time, for formulas that have loads enough of their own.
template <int VEC, class V, class A, class Formula>
__device__ void sweep_one(const Source& s, const Entry<V, A>* entries, const Tile& tile, const Formula& formula) {
  const unsigned packs = unsigned(s.dim / VEC), total = unsigned(tile.rows) * packs, column = unsigned(s.column);
  for (unsigned e = threadIdx.x % 32; e < total; e += 32) {
    const unsigned row = s.packs.quotient(e), c = (e - row * packs) * VEC;
    A y[VEC];
    if (entries[row].kind == Kind::none) {
#pragma unroll
      for (int v = 0; v < VEC; ++v) y[v] = A(NAN);
    } else {
      formula(entries[row], row, c, y);
    }
    store_values<void>(tile, row, column + c, y);
  }
}

template <int VEC, class V, class A>
__device__ void cubic_rows(const Source& s, const Entry<V, A>* entries, const Outer<V, A>* outer, const Tile& tile) {
  sweep_one<VEC>(s, entries, tile, [&](const Entry<V, A>& entry, unsigned row, unsigned c, A(&y)[VEC]) {
    const Pack<V, VEC> x0 = load_pack<VEC>(entry.first + c);
    if (entry.kind == Kind::copy) {
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
        y[v] = pchip_between(k, w, A(load(before.v + v)), A(load(x0.v + v)), A(load(x1.v + v)), A(load(after.v + v)));
      }
    } else {  // the recording's first or last interval
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        y[v] = pchip(k, w, A(load(before.v + v)), A(load(x0.v + v)), A(load(x1.v + v)), A(load(after.v + v)));
      }
    }
  });
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

template <int VEC, class Time, class V, class A>
__device__ void mean_rows(const Source& s, const Entry<V, A>* entries, const Tile& tile) {
  sweep_one<VEC>(s, entries, tile, [&](const Entry<V, A>& entry, unsigned, unsigned c, A(&y)[VEC]) {
    if (entry.kind == Kind::mean) return mean_of<VEC>(entry, s.value_row_stride, c, y);
    if (entry.kind == Kind::mean_of_last) {
      const Time* t = reinterpret_cast<const Time*>(entry.second);
#pragma unroll
      for (int v = 0; v < VEC; ++v) y[v] = mean_of_last<A>(entry.first + c + v, s.value_row_stride, t, entry.samples);
      return;
    }
    const Pack<V, VEC> x0 = load_pack<VEC>(entry.first + c), x1 = load_pack<VEC>(entry.second + c);
#pragma unroll
    for (int v = 0; v < VEC; ++v) {
      const A base = load(x0.v + v);
      y[v] = entry.kind == Kind::copy ? base : lerp(entry.weight, base, A(load(x1.v + v)));
    }
  });
}

template <bool kLinear, class V, int VEC, class Time>
__device__ __forceinline__ void wide_tile(const Source& s, const Cursor<Time>& c, const Place& place, char* shared) {
  using A = typename Accumulator<V>::type;
  Entry<V, A>* entries = reinterpret_cast<Entry<V, A>*>(shared);
  Outer<V, A>* outer = reinterpret_cast<Outer<V, A>*>(entries + kRows);
  const int lane = threadIdx.x % 32;
  const Near<Time> d = near(c, s);
  const Stencil<A, int> st = stencil_of<kLinear, A>(s, c, d);
  const Entry<V, A> entry = entry_of<V>(s, d, st);
  entries[lane] = entry;
  if (mode_of<kLinear>(s) == Mode::cubic && entry.kind == Kind::two) outer[lane] = outer_of<V>(s, d, st);
  const Tile tile = place.tile(s);
  if (lane < tile.rows) tile.valid[lane * tile.streams] = st.valid;
  __syncwarp();
  const auto linear = [](bool copy, A w, A x0, A x1) { return copy ? x0 : lerp(w, x0, x1); };
  if constexpr (kLinear) {
    if (__all_sync(~0u, entry.kind == Kind::two)) return sweep_two<Rows::both, V, VEC>(s, entries, tile, linear);
    return sweep_two<Rows::any, V, VEC>(s, entries, tile, linear);
  }
  switch (s.mode) {
    case Mode::cubic: return cubic_rows<VEC>(s, entries, outer, tile);
    case Mode::angle:
      return sweep_two<Rows::any, void, VEC>(
          s, entries, tile, [](bool copy, A w, A x0, A x1) { return copy ? wrap(x0) : lerp_angle(w, x0, x1); });
    case Mode::mean:
      if (__any_sync(~0u, entry.kind > Kind::two)) return mean_rows<VEC, Time>(s, entries, tile);
      [[fallthrough]];
    case Mode::linear: return sweep_two<Rows::any, void, VEC>(s, entries, tile, linear);
    default: return sweep_two<Rows::copies, void, VEC>(s, entries, tile, [](bool, A, A x, A) { return x; });
  }
}

}  // namespace
}  // namespace robocache::align
