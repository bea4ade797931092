// Body of the CPU kernel, compiled once for each instruction set (fuse_*.cpp set RC_ISA and the target first).
//
// A block of at most 64 targets of one stream goes through three steps, so that each is a plain loop with many
// independent memory accesses in flight:
//   1. brackets: gallop from where the last two brackets predict the next one, prefetch the samples found
//   2. formula:  one row of accumulators a target, written straight to the output where it has the accumulator's type
//   3. store:    else rounded to the output's type from a 64 x 128 scratch block (32-64 KiB: stays in L2)
#include <type_traits>

#include "robocache/align/ops.h"

namespace robocache::align {
inline namespace RC_ISA {
namespace {

constexpr int kRows = 64;      // targets a block: brackets and weights fit in L1
constexpr int kColumns = 128;  // columns a scratch block
constexpr int kAhead = 8;  // targets of prefetch; of 4, 8, 16 and 32 the fastest here (64 episodes, far over the cache)

// Targets [first_target, first_target + rows) of one episode, one stream.
struct Block {
  const Stream* stream;
  int64_t batch, first_sample, samples;
  int64_t first_target, rows, output_row;

  template <class Time> const Time* times() const {
    return static_cast<const Time*>(stream->times) +
           (stream->offsets ? first_sample : batch * stream->time_batch_stride);
  }
  template <class V> const V* values() const {
    return static_cast<const V*>(stream->values) +
           (stream->offsets ? first_sample * stream->value_row_stride : batch * stream->value_batch_stride);
  }
};

// Rows of one block: the stencils of its targets, the samples of one stream from some column on, and where the results
// go.
template <class V, class A, class Time> struct Rows {
  const V* x;
  int64_t x_stride;
  const Time* t;
  int64_t samples;
  Stencil<A, int64_t>* stencils;
  int count;
  int64_t width;
  A* out;
  int64_t out_stride;

  const V* row(int64_t sample) const { return x + sample * x_stride; }
};

// f(W) with the width as a constant where it is a usual one, which lets the compiler keep a row in registers; else
// f(0).
template <int... kUsual, class F> void with_width(int64_t width, const F& f) {
  const bool usual = ((width == kUsual && (f(std::integral_constant<int, kUsual>()), true)) || ...);
  if (!usual) f(std::integral_constant<int, 0>());
}

template <class Op, int W, class R> RC_INLINE void two_of(const R& rows, int k) {
  using A = std::remove_reference_t<decltype(*rows.out)>;
  const int64_t width = W ? W : rows.width;
  const Stencil<A, int64_t>& s = rows.stencils[k];
  const auto* a = rows.row(s.first);
  A* out = rows.out + k * rows.out_stride;
  if (s.first == s.second) {
    for (int64_t c = 0; c < width; ++c) out[c] = Op::copy(A(load(a + c)));
  } else {
    const auto* b = rows.row(s.second);
    const A weight = s.weight;
    for (int64_t c = 0; c < width; ++c) out[c] = Op::between(weight, A(load(a + c)), A(load(b + c)));
  }
}

// Means over [first, second); `repeats` tells of samples followed by an equal stamp, which do not exist. A functor, so
// that the usual stream without them pays nothing.
template <class Op, int W, class R, class Repeats> RC_INLINE void bin_of(const R& rows, int k, const Repeats& repeats) {
  using A = std::remove_reference_t<decltype(*rows.out)>;
  const int64_t width = W ? W : rows.width;
  const Stencil<A, int64_t>& s = rows.stencils[k];
  if (!s.bin) return two_of<Op, W>(rows, k);
  A* out = rows.out + k * rows.out_stride;
  int64_t first = s.first;
  while (repeats(first)) ++first;
  const auto* base = rows.row(first);
  A sum[W ? W : kColumns];
  for (int64_t c = 0; c < width; ++c) sum[c] = A(0);
  int64_t count = 1;
  for (int64_t j = first + 1; j < s.second; ++j) {
    if (repeats(j)) continue;
    const auto* row = rows.row(j);
    for (int64_t c = 0; c < width; ++c) sum[c] += A(load(row + c)) - A(load(base + c));
    ++count;
  }
  const A per_count = A(1) / A(count);
  for (int64_t c = 0; c < width; ++c) out[c] = fused(sum[c], per_count, A(load(base + c)));
}

template <class A, class Time> bool any_repeats(const Time* t, int64_t n, const Stencil<A, int64_t>* s, int rows) {
  int64_t low = n, high = 0;
  for (int k = 0; k < rows; ++k) {
    if (s[k].bin && s[k].first < low) low = s[k].first;
    if (s[k].bin && s[k].second > high) high = s[k].second;
  }
  if (high > n - 1) high = n - 1;
  bool found = false;
  for (int64_t j = low; j < high; ++j) found |= t[j + 1] == t[j];
  return found;
}

template <class V, class A, class Time> void cubic_rows(const Rows<V, A, Time>& rows) {
  for (int k = 0; k < rows.count; ++k) {
    const Stencil<A, int64_t>& s = rows.stencils[k];
    const V *a = rows.row(s.first), *b = rows.row(s.second);
    A* out = rows.out + k * rows.out_stride;
    if (s.first == s.second) {
      for (int64_t c = 0; c < rows.width; ++c) out[c] = load(a + c);
      continue;
    }
    const Knots<A, int64_t> knots = knots_at(rows.t, rows.samples, s);
    const V* before = knots.before >= 0 ? rows.row(knots.before) : a;
    const V* after = knots.after >= 0 ? rows.row(knots.after) : b;
    for (int64_t c = 0; c < rows.width; ++c) {
      out[c] = pchip(knots, s.weight, A(load(before + c)), A(load(a + c)), A(load(b + c)), A(load(after + c)));
    }
  }
}

// A row without direction is not valid.
template <class Op, class V, class A, class Time> void quaternion_rows(const Rows<V, A, Time>& rows) {
  for (int k = 0; k < rows.count; ++k) {
    Stencil<A, int64_t>& s = rows.stencils[k];
    const bool copy = s.first == s.second;
    s.valid &= Op::row(copy, s.weight, rows.row(s.first), rows.row(s.second), rows.out + k * rows.out_stride);
  }
}

// Step 2, for one formula.
template <class Op, class V, class A, class Time> void apply(const Rows<V, A, Time>& rows) {
  if constexpr (Op::kShape == Shape::four) {
    cubic_rows(rows);
  } else if constexpr (Op::kShape == Shape::quaternion) {
    quaternion_rows<Op>(rows);
  } else if constexpr (Op::kShape == Shape::bin) {
    if (any_repeats(rows.t, rows.samples, rows.stencils, rows.count)) {
      const auto repeats = [&](int64_t j) { return j + 1 < rows.samples && rows.t[j + 1] == rows.t[j]; };
      for (int k = 0; k < rows.count; ++k) bin_of<Op, 0>(rows, k, repeats);
      return;
    }
    with_width<1, 2, 3, 4, 6, 7, 8, 14, 16>(rows.width, [&](auto w) {
      for (int k = 0; k < rows.count; ++k) bin_of<Op, decltype(w)::value>(rows, k, [](int64_t) { return false; });
    });
  } else {
    with_width<1, 2, 3, 4, 6, 7, 8, 14, 16>(rows.width, [&](auto w) {
      for (int k = 0; k < rows.count; ++k) two_of<Op, decltype(w)::value>(rows, k);
    });
  }
}

template <class V, class A, class Time> void apply(Mode mode, const Rows<V, A, Time>& rows) {
  if (rows.samples > 0) return with_formula(mode, [&]<class Op>(Op) { apply<Op>(rows); });
  for (int k = 0; k < rows.count; ++k) {
    for (int64_t c = 0; c < rows.width; ++c) rows.out[k * rows.out_stride + c] = A(NAN);
  }
}

// Rounds a scratch block into the output, columns [column, column + width) of the fused row.
template <class A>
void store_block(const A* rows_in, int64_t in_stride, int64_t rows, int64_t width, const Output& out, int64_t row,
                 int64_t column) {
  for (int64_t k = 0; k < rows; ++k) {
    const A* r = rows_in + k * in_stride;
    const int64_t at = (row + k) * out.width + column;
    switch (out.dtype) {
      case DType::f64:
        for (int64_t c = 0; c < width; ++c) store(static_cast<double*>(out.data) + at + c, r[c]);
        break;
      case DType::f32:
        for (int64_t c = 0; c < width; ++c) store(static_cast<float*>(out.data) + at + c, r[c]);
        break;
      case DType::bf16:
        for (int64_t c = 0; c < width; ++c) store(static_cast<BFloat16*>(out.data) + at + c, r[c]);
        break;
      case DType::f16:
        for (int64_t c = 0; c < width; ++c) store(static_cast<Half*>(out.data) + at + c, r[c]);
        break;
      default:
        for (int64_t c = 0; c < width; ++c) {
          const float scaled = out.scale ? float(r[c] / A(out.scale[column + c])) : float(r[c]);
          static_cast<uint8_t*>(out.data)[at + c] = encode8(out.dtype, scaled);
        }
    }
  }
}

// Step 1. bracket[0]: the last bracket found, bracket[1]: the step that led to it.
template <class Search, class A, class Time>
void stencils(const Stream& stream, const Time* t, const char* x, int64_t row_bytes, const Block& block,
              const Time* target, int64_t count, int64_t* bracket, Stencil<A, int64_t>* s) {
  const Time shift = time_value<Time>(stream.shift), max_gap = time_value<Time>(stream.max_gap);
  int64_t at = bracket[0], step = bracket[1];
  for (int64_t k = 0; k < block.rows; ++k) {
    const int64_t j = block.first_target + k;
    const auto edges = [&](Time* low, Time* high) { return bin_edges(target, count, j, shift, low, high); };
    const Time time = minus(target[j], shift);
    const int64_t found = locate<false>(t, block.samples, time, at + step);
    s[k] = Search::template at<A>(t, block.samples, found, time, max_gap, edges);
    step = found > at ? found - at : step;
    at = found;
    const int64_t ahead = at + kAhead * step;
    if (ahead > 0 && ahead < block.samples) {
      __builtin_prefetch(t + ahead - 1);  // the four stamps that locate() looks at may lie in two lines
      __builtin_prefetch(t + ahead + 2);
      __builtin_prefetch(x + ahead * row_bytes);
      __builtin_prefetch(x + ahead * row_bytes + 63);
    }
  }
  bracket[0] = at;
  bracket[1] = step;
}

template <class V, class Time>
void fuse_block(const Block& block, const Time* target, int64_t count, const Output& out, int stream_index,
                int64_t* bracket) {
  using A = typename Accumulator<V>::type;
  const Stream& stream = *block.stream;
  const Time* t = block.times<Time>();
  const V* x = block.values<V>();
  const int64_t stride = stream.value_row_stride, n = block.samples;
  const int rows = int(block.rows);

  Stencil<A, int64_t> s[kRows];
  with_search(stream.mode, [&]<class Search>(Search) {
    const char* bytes = reinterpret_cast<const char*>(x);
    stencils<Search>(stream, t, bytes, stride * int64_t(sizeof(V)), block, target, count, bracket, s);
  });
  const bool direct = out.dtype == (sizeof(A) == 4 ? DType::f32 : DType::f64);
  A scratch[kRows * kColumns];
  for (int64_t c = 0; c < stream.dim; c += kColumns) {
    const int64_t width = stream.dim - c < kColumns ? stream.dim - c : kColumns;
    A* made = direct ? static_cast<A*>(out.data) + block.output_row * out.width + stream.column + c : scratch;
    apply(stream.mode, Rows<V, A, Time>{x + c, stride, t, n, s, rows, width, made, direct ? out.width : kColumns});
    if (!direct) store_block(scratch, kColumns, block.rows, width, out, block.output_row, stream.column + c);
  }
  for (int k = 0; k < rows; ++k) out.valid[(block.output_row + k) * out.streams + stream_index] = s[k].valid;
}

template <class Time>
void fuse_rows_as(const Stream* streams, const Targets& targets, const Output& out, int64_t begin, int64_t end) {
  int64_t row = begin;
  int64_t b = targets.offsets ? locate<false>(targets.offsets, targets.batch, row, int64_t(0)) : row / targets.length;
  for (; row < end; ++b) {
    // Episode b: its targets [first, last), and of those the ones from `row` on.
    const int64_t first = targets.offsets ? targets.offsets[b] : b * targets.length;
    const int64_t last = targets.offsets ? targets.offsets[b + 1] : first + targets.length;
    const Time* target = static_cast<const Time*>(targets.times) + (targets.offsets ? first : b * targets.batch_stride);
    const int64_t stop = last < end ? last : end;
    for (int m = 0; m < int(out.streams); ++m) {
      const Stream& stream = streams[m];
      const int64_t sample = stream.offsets ? stream.offsets[b] : 0;
      const int64_t samples = stream.offsets ? stream.offsets[b + 1] - sample : stream.length;
      Block block{&stream, b, sample, samples, 0, 0, 0};
      int64_t bracket[2] = {-1, 0};
      for (int64_t r = row; r < stop; r += kRows) {
        block.first_target = r - first;
        block.output_row = r;
        block.rows = stop - r < kRows ? stop - r : kRows;
        switch (stream.dtype) {
          case DType::f64: fuse_block<double>(block, target, last - first, out, m, bracket); break;
          case DType::f32: fuse_block<float>(block, target, last - first, out, m, bracket); break;
          case DType::f16: fuse_block<Half>(block, target, last - first, out, m, bracket); break;
          default: fuse_block<BFloat16>(block, target, last - first, out, m, bracket);
        }
      }
    }
    row = stop;
  }
}

}  // namespace

void fuse_rows(TimeType time_type, const Stream* streams, const Targets& targets, const Output& out, int64_t begin,
               int64_t end) {
  switch (time_type) {
    case TimeType::i64: return fuse_rows_as<int64_t>(streams, targets, out, begin, end);
    case TimeType::f64: return fuse_rows_as<double>(streams, targets, out, begin, end);
    default: return fuse_rows_as<float>(streams, targets, out, begin, end);
  }
}

}  // namespace RC_ISA
}  // namespace robocache::align
