// Body of the CPU kernel, compiled once for each instruction set (fuse_*.cpp set RC_ISA and the target first).
//
// A block of at most 64 targets of one stream goes through three steps, so that each is a plain loop with many
// independent memory accesses in flight:
//   1. brackets: gallop from where the last two brackets predict the next one, prefetch the samples found
//   2. formula:  one row of accumulators a target, written straight to the output where it has the accumulator's type
//   3. store:    else rounded to the output's type from a 64 x 128 scratch block (32-64 KiB: stays in L2)
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

// Width known at compile time lets the compiler keep a row in registers; 0 = any.
template <int W> struct Width {
  RC_INLINE static int64_t of(int64_t w) { return W ? W : w; }
};

template <int W, class V, class A>
RC_INLINE void linear_rows(const V* x, int64_t stride, const Stencil<A, int64_t>* s, int rows, int64_t width, A* out,
                           int64_t out_stride) {
  const int64_t w = Width<W>::of(width);
  for (int k = 0; k < rows; ++k) {
    const V* a = x + s[k].first * stride;
    A* o = out + k * out_stride;
    if (s[k].first == s[k].second) {
      for (int64_t c = 0; c < w; ++c) o[c] = load(a + c);
    } else {
      const V* b = x + s[k].second * stride;
      const A weight = s[k].weight;
      for (int64_t c = 0; c < w; ++c) o[c] = lerp(weight, A(load(a + c)), A(load(b + c)));
    }
  }
}

// Means over [first, second); `repeats` tells of samples followed by an equal stamp, which do not exist. A functor, so
// that the usual stream without them pays nothing.
template <int W, class V, class A, class Repeats>
RC_INLINE void mean_rows(const V* x, int64_t stride, const Stencil<A, int64_t>* s, int rows, int64_t width, A* out,
                         int64_t out_stride, const Repeats& repeats) {
  const int64_t w = Width<W>::of(width);
  A sum[W ? W : kColumns];
  for (int k = 0; k < rows; ++k) {
    A* o = out + k * out_stride;
    if (!s[k].mean) {
      linear_rows<W>(x, stride, s + k, 1, width, o, out_stride);
      continue;
    }
    int64_t first = s[k].first;
    while (repeats(first)) ++first;
    const V* base = x + first * stride;
    for (int64_t c = 0; c < w; ++c) sum[c] = A(0);
    int64_t count = 1;
    for (int64_t j = first + 1; j < s[k].second; ++j) {
      if (repeats(j)) continue;
      const V* row = x + j * stride;
      for (int64_t c = 0; c < w; ++c) sum[c] += A(load(row + c)) - A(load(base + c));
      ++count;
    }
    const A per_count = A(1) / A(count);
    for (int64_t c = 0; c < w; ++c) o[c] = fused(sum[c], per_count, A(load(base + c)));
  }
}

#define RC_BY_WIDTH(width, CALL) \
  switch (width) {               \
    case 1: CALL(1); break;      \
    case 2: CALL(2); break;      \
    case 3: CALL(3); break;      \
    case 4: CALL(4); break;      \
    case 6: CALL(6); break;      \
    case 7: CALL(7); break;      \
    case 8: CALL(8); break;      \
    case 14: CALL(14); break;    \
    case 16: CALL(16); break;    \
    default: CALL(0);            \
  }

template <class V, class A>
void linear_block(const V* x, int64_t stride, const Stencil<A, int64_t>* s, int rows, int64_t width, A* out,
                  int64_t out_stride) {
#define RC_CALL(W) linear_rows<W>(x, stride, s, rows, width, out, out_stride)
  RC_BY_WIDTH(width, RC_CALL)
#undef RC_CALL
}

template <class V, class A>
void mean_block(const V* x, int64_t stride, const Stencil<A, int64_t>* s, int rows, int64_t width, A* out,
                int64_t out_stride) {
  const auto none = [](int64_t) { return false; };
#define RC_CALL(W) mean_rows<W>(x, stride, s, rows, width, out, out_stride, none)
  RC_BY_WIDTH(width, RC_CALL)
#undef RC_CALL
}

template <class V, class A, class Time>
void mean_block_repeats(const V* x, int64_t stride, const Time* t, int64_t n, const Stencil<A, int64_t>* s, int rows,
                        int64_t width, A* out, int64_t out_stride) {
  mean_rows<0>(x, stride, s, rows, width, out, out_stride, [=](int64_t j) { return j + 1 < n && t[j + 1] == t[j]; });
}

template <class A, class Time> bool any_repeats(const Time* t, int64_t n, const Stencil<A, int64_t>* s, int rows) {
  int64_t low = n, high = 0;
  for (int k = 0; k < rows; ++k) {
    if (s[k].mean && s[k].first < low) low = s[k].first;
    if (s[k].mean && s[k].second > high) high = s[k].second;
  }
  if (high > n - 1) high = n - 1;
  bool found = false;
  for (int64_t j = low; j < high; ++j) found |= t[j + 1] == t[j];
  return found;
}

template <class V, class A, class Time>
void cubic_block(const V* x, int64_t stride, const Time* t, int64_t n, const Stencil<A, int64_t>* s, int rows,
                 int64_t width, A* out, int64_t out_stride) {
  for (int k = 0; k < rows; ++k) {
    const V* a = x + s[k].first * stride;
    const V* b = x + s[k].second * stride;
    A* o = out + k * out_stride;
    if (s[k].first == s[k].second) {
      for (int64_t c = 0; c < width; ++c) o[c] = load(a + c);
      continue;
    }
    const Knots<A, int64_t> knots = knots_at(t, n, s[k]);
    const V* before = knots.before >= 0 ? x + knots.before * stride : a;
    const V* after = knots.after >= 0 ? x + knots.after * stride : b;
    for (int64_t c = 0; c < width; ++c) {
      o[c] = pchip(knots, s[k].weight, A(load(before + c)), A(load(a + c)), A(load(b + c)), A(load(after + c)));
    }
  }
}

template <class V, class A>
void angle_block(const V* x, int64_t stride, const Stencil<A, int64_t>* s, int rows, int64_t width, A* out,
                 int64_t out_stride) {
  for (int k = 0; k < rows; ++k) {
    const V* a = x + s[k].first * stride;
    const V* b = x + s[k].second * stride;
    A* o = out + k * out_stride;
    const bool copy = s[k].first == s[k].second;
    for (int64_t c = 0; c < width; ++c) {
      o[c] = copy ? wrap(A(load(a + c))) : lerp_angle(s[k].weight, A(load(a + c)), A(load(b + c)));
    }
  }
}

// slerp (position = 0) and pose (position = 3 linear columns first). A quaternion without direction is not valid.
template <class V, class A>
void quaternion_block(const V* x, int64_t stride, Stencil<A, int64_t>* s, int rows, int position, A* out,
                      int64_t out_stride) {
  for (int k = 0; k < rows; ++k) {
    const V* a = x + s[k].first * stride;
    const V* b = x + s[k].second * stride;
    A* o = out + k * out_stride;
    const bool copy = s[k].first == s[k].second;
    for (int c = 0; c < position; ++c) o[c] = copy ? A(load(a + c)) : lerp(s[k].weight, A(load(a + c)), A(load(b + c)));
    A q0[4], q1[4];
    for (int c = 0; c < 4; ++c) {
      q0[c] = load(a + position + c);
      q1[c] = load(b + position + c);
    }
    const bool good = copy ? normalize(q0, o + position) : slerp(s[k].weight, q0, q1, o + position);
    s[k].valid = s[k].valid && good;
  }
}

template <class V, class A, class Time>
void formula(Mode mode, const V* x, int64_t stride, const Time* t, int64_t n, Stencil<A, int64_t>* s, int rows,
             int64_t width, A* out, int64_t out_stride) {
  if (n == 0) {
    for (int k = 0; k < rows; ++k) {
      for (int64_t c = 0; c < width; ++c) out[k * out_stride + c] = A(NAN);
    }
    return;
  }
  switch (mode) {
    case Mode::cubic: return cubic_block(x, stride, t, n, s, rows, width, out, out_stride);
    case Mode::angle: return angle_block(x, stride, s, rows, width, out, out_stride);
    case Mode::slerp: return quaternion_block(x, stride, s, rows, 0, out, out_stride);
    case Mode::pose: return quaternion_block(x, stride, s, rows, 3, out, out_stride);
    case Mode::mean:
      if (any_repeats(t, n, s, rows)) return mean_block_repeats(x, stride, t, n, s, rows, width, out, out_stride);
      return mean_block(x, stride, s, rows, width, out, out_stride);
    default: return linear_block(x, stride, s, rows, width, out, out_stride);
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
template <class A, class Time>
void stencils(const Stream& stream, const Time* t, const char* x, int64_t row_bytes, const Block& block,
              const Time* target, int64_t count, int64_t* bracket, Stencil<A, int64_t>* s) {
  const Time shift = time_value<Time>(stream.shift), max_gap = time_value<Time>(stream.max_gap);
  int64_t at = bracket[0], step = bracket[1];
  for (int64_t k = 0; k < block.rows; ++k) {
    int64_t found;
    const int64_t j = block.first_target + k;
    const auto bin = [&](Time* low, Time* high) { return bin_edges(target, count, j, shift, low, high); };
    s[k] = stencil_at<A>(stream.mode, t, block.samples, minus(target[j], shift), max_gap, at + step, bin, &found);
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
  stencils(stream, t, reinterpret_cast<const char*>(x), stride * int64_t(sizeof(V)), block, target, count, bracket, s);
  const bool direct = out.dtype == (sizeof(A) == 4 ? DType::f32 : DType::f64);
  A scratch[kRows * kColumns];
  for (int64_t c = 0; c < stream.dim; c += kColumns) {
    const int64_t width = stream.dim - c < kColumns ? stream.dim - c : kColumns;
    if (direct) {
      A* at = static_cast<A*>(out.data) + block.output_row * out.width + stream.column + c;
      formula(stream.mode, x + c, stride, t, n, s, rows, width, at, out.width);
    } else {
      formula(stream.mode, x + c, stride, t, n, s, rows, width, scratch, kColumns);
      store_block(scratch, kColumns, block.rows, width, out, block.output_row, stream.column + c);
    }
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
