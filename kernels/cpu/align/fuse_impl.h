// Body of the CPU kernel, compiled once for each instruction set (fuse_*.cpp set RC_ISA and the target first).
//
// A block of at most 64 targets of one stream goes through three steps, so that each is a plain loop with many
// independent memory accesses in flight:
//   1. brackets: gallop from where the last two brackets predict the next one, prefetch the samples found
//   2. formula:  one row of accumulators a target, written straight to the output where it has the accumulator's type
//   3. store:    else rounded to the output's type from a 64 x 128 scratch block (32-64 KiB: stays in L2)
#include <type_traits>
#include <utility>

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
template <class V, class A> struct Rows {
  const V* x;
  int64_t x_stride;
  Stencil<A, int64_t>* stencils;
  int count;
  int64_t width;
  A* out;
  int64_t out_stride;

  const V* row(int64_t sample) const { return x + sample * x_stride; }
};

// f(W) with the width as a constant where it is a usual one, which lets the compiler keep a row in registers; else
// f(0).
template <class F> void with_width(int64_t width, const F& f) {
  const auto any_of = [&]<int... kUsual>(std::integer_sequence<int, kUsual...>) {
    const bool usual = ((width == kUsual && (f(std::integral_constant<int, kUsual>()), true)) || ...);
    if (!usual) f(std::integral_constant<int, 0>());
  };
  any_of(std::integer_sequence<int, 1, 2, 3, 4, 6, 7, 8, 14, 16>());
}

template <int W, class Op, class V, class A> RC_INLINE void two_of(const Op& op, const Rows<V, A>& rows, int k) {
  const int64_t width = W ? W : rows.width;
  const Stencil<A, int64_t>& s = rows.stencils[k];
  const V* a = rows.row(s.first);
  A* out = rows.out + k * rows.out_stride;
  if (s.first == s.second) {
    for (int64_t c = 0; c < width; ++c) out[c] = op.copy(A(load(a + c)));
  } else {
    const V* b = rows.row(s.second);
    const A weight = s.weight;
    for (int64_t c = 0; c < width; ++c) out[c] = op.between(weight, A(load(a + c)), A(load(b + c)));
  }
}

// A bin's mean, all columns side by side: careful_mean() of a bin without repeated stamps, or false where it takes
// careful_mean() itself.
template <int W, class V, class A> RC_INLINE bool bin_of(const Rows<V, A>& rows, int k) {
  const int64_t width = W ? W : rows.width;
  const Stencil<A, int64_t>& s = rows.stencils[k];
  const V* base = rows.row(s.first);
  A sum[W ? W : kColumns];
  double total[W ? W : kColumns];
  for (int64_t c = 0; c < width; ++c) {
    sum[c] = A(0);
    total[c] = 0;
  }
  for (int64_t stretch = s.first; stretch < s.second; stretch += kSummed) {
    const int64_t stop = stretch + kSummed < s.second ? stretch + kSummed : s.second;
    for (int64_t j = stretch == s.first ? stretch + 1 : stretch; j < stop; ++j) {
      const V* row = rows.row(j);
      for (int64_t c = 0; c < width; ++c) sum[c] += A(load(row + c)) - A(load(base + c));
    }
    for (int64_t c = 0; c < width; ++c) {
      total[c] += double(sum[c]);
      sum[c] = A(0);
    }
  }
  A* out = rows.out + k * rows.out_stride;
  const A per_count = A(1) / A(s.second - s.first);
  bool number = true;
  for (int64_t c = 0; c < width; ++c) {
    out[c] = fused(A(total[c]), per_count, A(load(base + c)));
    number &= out[c] == out[c];
  }
  return number;
}

// What does not ask for stamps is compiled once for all their dtypes, hence [[gnu::noinline]].
template <class Op, class V, class A> [[gnu::noinline]] void two_rows(const Op& op, const Rows<V, A>& rows) {
  const auto each = [&](auto w) {
    for (int k = 0; k < rows.count; ++k) two_of<decltype(w)::value>(op, rows, k);
  };
  if constexpr (std::is_same_v<Op, Linear>) {
    with_width(rows.width, each);
  } else {
    each(std::integral_constant<int, 0>());
  }
}

// Bit k of the result: row k is left to careful_mean().
template <class V, class A> [[gnu::noinline]] uint64_t mean_rows(const Rows<V, A>& rows) {
  static_assert(kRows <= 64);
  uint64_t left = 0;
  with_width(rows.width, [&](auto w) {
    constexpr int kWidth = decltype(w)::value;
    for (int k = 0; k < rows.count; ++k) {
      if (!rows.stencils[k].bin) {
        two_of<kWidth>(Mean(), rows, k);
      } else if (!bin_of<kWidth>(rows, k)) {
        left |= uint64_t(1) << k;
      }
    }
  });
  return left;
}

template <class Op, class V, class A, class Time>
[[gnu::noinline]] void careful_row(const Op& op, const Rows<V, A>& rows, int k, const Time* t) {
  const Stencil<A, int64_t>& s = rows.stencils[k];
  for (int64_t c = 0; c < rows.width; ++c) {
    const V* x = rows.row(s.first) + c;
    rows.out[k * rows.out_stride + c] = careful_mean<A>(op, x, rows.x_stride, t + s.first, s.second - s.first);
  }
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

template <class V, class A, class Time> void cubic_rows(const Rows<V, A>& rows, const Time* t, int64_t n) {
  for (int k = 0; k < rows.count; ++k) {
    const Stencil<A, int64_t>& s = rows.stencils[k];
    const V *a = rows.row(s.first), *b = rows.row(s.second);
    A* out = rows.out + k * rows.out_stride;
    if (s.first == s.second) {
      for (int64_t c = 0; c < rows.width; ++c) out[c] = load(a + c);
      continue;
    }
    const Knots<A, int64_t> knots = knots_at(t, n, s);
    const V* before = knots.before >= 0 ? rows.row(knots.before) : a;
    const V* after = knots.after >= 0 ? rows.row(knots.after) : b;
    for (int64_t c = 0; c < rows.width; ++c) {
      out[c] = pchip(knots, s.weight, A(load(before + c)), A(load(a + c)), A(load(b + c)), A(load(after + c)));
    }
  }
}

// A row without direction is not valid.
template <class Op, class V, class A> [[gnu::noinline]] void quaternion_rows(const Rows<V, A>& rows) {
  for (int k = 0; k < rows.count; ++k) {
    Stencil<A, int64_t>& s = rows.stencils[k];
    const bool copy = s.first == s.second;
    s.valid &= Op::row(copy, s.weight, rows.row(s.first), rows.row(s.second), rows.out + k * rows.out_stride);
  }
}

// Step 2, for one formula; t: the episode's n stamps.
template <class Op, class V, class A, class Time>
void apply(const Op& op, const Rows<V, A>& rows, const Time* t, int64_t n) {
  if constexpr (Op::kShape == Shape::one) {
    two_rows(Linear(), rows);  // which copies where both samples are one
  } else if constexpr (Op::kShape == Shape::two) {
    two_rows(op, rows);
  } else if constexpr (Op::kShape == Shape::four) {
    cubic_rows(rows, t, n);
  } else if constexpr (Op::kShape == Shape::quaternion) {
    quaternion_rows<Op>(rows);
  } else {
    constexpr bool kPlain = std::is_same_v<Op, Mean>;  // where nothing forbids it
    const bool plain = kPlain && !any_repeats(t, n, rows.stencils, rows.count);
    const uint64_t left = plain ? mean_rows(rows) : ~uint64_t(0);
    for (int k = 0; left && k < rows.count; ++k) {
      if (!(left >> k & 1)) continue;
      rows.stencils[k].bin ? careful_row(op, rows, k, t) : two_of<0>(op, rows, k);
    }
  }
}

template <class V, class A, class Time>
void apply(const Stream& stream, const Rows<V, A>& rows, const Time* t, int64_t n) {
  if (n > 0) return with_formula<A>(stream.mode, stream.turn, [&](const auto& op) { apply(op, rows, t, n); });
  for (int k = 0; k < rows.count; ++k) {
    for (int64_t c = 0; c < rows.width; ++c) rows.out[k * rows.out_stride + c] = not_a_number<A>();
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
          const A scaled = out.scale ? r[c] / A(out.scale[column + c]) : r[c];
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
    const Time time = unshifted(target[j], shift);
    const int64_t found = locate<false>(t, block.samples, time, at + step);
    s[k] = Search::template at<A>(t, block.samples, found, time, max_gap, edges);
    step = found > at ? found - at : step;
    at = found;
    if (s[k].first >= 0) {  // used up to 64 targets later
      __builtin_prefetch(x + s[k].first * row_bytes);
      __builtin_prefetch(x + s[k].second * row_bytes + row_bytes - 1);
    }
    const int64_t ahead = at + kAhead * step;
    if (ahead > 0 && ahead < block.samples) {
      __builtin_prefetch(t + ahead - 1);  // the four stamps that locate() looks at may lie in two lines
      __builtin_prefetch(t + ahead + 2);
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
    apply(stream, Rows<V, A>{x + c, stride, s, rows, width, made, direct ? out.width : kColumns}, t, n);
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
