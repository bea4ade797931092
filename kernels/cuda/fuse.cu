// Aligns and fuses a batch of streams on the GPU.
//
// Work:    a block takes R consecutive output rows (targets, episode borders do not matter) and all streams of them.
//          Jagged batches are balanced by that: a block's work does not depend on episode lengths.
// Step 1:  one thread an (R x M) entry finds the bracket and the weight, once a target, and leaves them in shared
//          memory. The search starts where a steady rate would put the stamp, so it takes a few loads, not log2(n).
// Step 2:  all threads sweep the R x D elements of each stream; neighbouring threads take neighbouring columns, so
//          loads and stores are coalesced, 16 bytes a thread where widths and addresses allow (VEC).
// Shared:  Entry[M][R], dynamic; R is chosen by the host so that it stays within 48 KiB (no opt-in needed).
// Bytes:   reads two samples (D values) and the bracket's stamps a target, writes D values and one valid flag. Two
//          neighbouring targets share samples through L1/L2.
//
// Two kernels: `light_kernel` for the copying and linear modes with values of one type, with registers to spare for
// occupancy; `general_kernel` for every mode, dtype and mixture.
#include <cuda_runtime.h>

#include "fuse.h"
#include "robocache/math.h"

namespace robocache {
namespace {

constexpr int kThreads = 256;
constexpr int kFew = 8, kMany = 256;       // streams a launch; the parameters travel by value (kMany: 27 KiB of 32)
constexpr int kSharedBytes = 48 * 1024;    // what a block has without asking
constexpr int64_t kElementsPerBlock = 8192;  // 256 threads x 4 independent 16-byte accesses x 8 values, measured best

template <int Cap> struct Streams {
  Stream s[Cap];
  int count;
  int first;  // index of s[0] among the call's streams
};

// A stencil in shared memory. first, second: element offsets of the two rows; equal: copy; -1: empty stream.
template <class A> struct Entry {
  int64_t first, second;
  A weight;
};

// What the general kernel also needs: the cubic's outer samples, or the mean's flag and stamps.
struct WideEntry {
  int64_t first, second;
  int64_t before, after;  // element offsets of the outer rows or -1
  double weight, h_before, h_after;
  bool mean;
};

struct Place {  // one target of the batch
  int64_t batch, k, count;
};

template <class Time> __device__ Place place_of(const Targets& targets, int64_t row, const Time** target) {
  Place p;
  const Time* times = static_cast<const Time*>(targets.times);
  if (targets.offsets) {
    const int64_t b = locate<false>(targets.offsets, targets.batch, row, 0);
    p.batch = b < 0 ? 0 : b;
    const int64_t start = targets.offsets[p.batch], stop = targets.offsets[p.batch + 1];
    // Offsets a caller got wrong give wrong rows, never a wild read.
    const bool sane = start >= 0 && start <= row && stop > row && stop <= targets.rows;
    p.k = sane ? row - start : 0;
    p.count = sane ? stop - start : 1;
    *target = times + (sane ? start : row);
  } else {
    p.batch = row / targets.length;
    p.k = row - p.batch * targets.length;
    p.count = targets.length;
    *target = times + p.batch * targets.batch_stride;
  }
  return p;
}

template <class Time> struct Samples {  // one episode of a stream
  const Time* t;
  int64_t n, base;  // base: element offset of the first row
};

template <class Time> __device__ Samples<Time> samples_of(const Stream& s, int64_t batch) {
  const Time* times = static_cast<const Time*>(s.times);
  if (!s.offsets) return {times + batch * s.time_batch_stride, s.length, batch * s.value_batch_stride};
  const int64_t low = s.offsets[batch], high = s.offsets[batch + 1];
  const bool sane = low >= 0 && low <= high && high <= s.length;
  return {times + (sane ? low : 0), sane ? high - low : 0, (sane ? low : 0) * s.value_row_stride};
}

// Where a stream of steady rate would have its last sample at or before x.
template <class Time> __device__ int64_t expected(const Time* t, int64_t n, Time x) {
  if (n < 4) return 0;
  const float span = float(minus(t[n - 1], t[0]));
  const float part = float(minus(x, t[0])) / span;  // NaN and infinities fail both comparisons below
  return part > 0.0f ? (part < 1.0f ? int64_t(part * float(n - 1)) : n - 1) : 0;
}

template <class A, class Time>
__device__ Stencil<A> stencil_of(const Stream& s, const Samples<Time>& d, const Place& p, const Time* target) {
  const Time shift = time_value<Time>(s.shift);
  int64_t at;
  return stencil_at<A>(s.mode, d.t, d.n, target, p.count, p.k, shift, time_value<Time>(s.max_gap),
                       expected(d.t, d.n, minus(target[p.k], shift)), &at);
}

template <class V, int VEC> struct alignas(sizeof(V) * VEC) Pack {
  V v[VEC];
};

template <class Time, class V, class O, int VEC, int Cap>
__global__ void __launch_bounds__(kThreads, 4)  // 64 registers: the compiler's own guess of 32 spills on sm_80
    light_kernel(const __grid_constant__ Streams<Cap> streams, const Targets targets, const Output out, int rows_log2) {
  using A = typename Accumulator<V>::type;
  extern __shared__ __align__(16) char shared[];
  Entry<A>* entries = reinterpret_cast<Entry<A>*>(shared);
  const int R = 1 << rows_log2;
  const int64_t row0 = int64_t(blockIdx.x) << rows_log2;
  const int rows = int(targets.rows - row0 < R ? targets.rows - row0 : R);

  for (int e = threadIdx.x; e < streams.count << rows_log2; e += kThreads) {
    const int m = e >> rows_log2, r = e & (R - 1);
    if (r >= rows) continue;
    const Stream& s = streams.s[m];
    const Time* target;
    const Place p = place_of(targets, row0 + r, &target);
    const Samples<Time> d = samples_of<Time>(s, p.batch);
    const Stencil<A> stencil = stencil_of<A>(s, d, p, target);
    entries[e] = {d.n ? d.base + stencil.first * s.value_row_stride : -1,
                  d.n ? d.base + stencil.second * s.value_row_stride : -1, stencil.weight};
    // first == second means copy, also where a stride of 0 makes two rows one
    out.valid[(row0 + r) * out.streams + streams.first + m] = stencil.valid;
  }
  __syncthreads();

  for (int m = 0; m < streams.count; ++m) {
    const Stream& s = streams.s[m];
    const V* x = static_cast<const V*>(s.values);
    O* o = static_cast<O*>(out.data) + row0 * out.width + s.column;
    const unsigned packs = unsigned(s.dim / VEC), total = unsigned(rows) * packs;
#pragma unroll 4
    for (unsigned e = threadIdx.x; e < total; e += kThreads) {
      const unsigned r = e / packs, c = (e - r * packs) * VEC;
      const Entry<A> entry = entries[(m << rows_log2) + r];
      Pack<V, VEC> a, b;
      Pack<O, VEC> y;
      if (entry.first >= 0) {
        a = *reinterpret_cast<const Pack<V, VEC>*>(x + entry.first + c);
        b = *reinterpret_cast<const Pack<V, VEC>*>(x + entry.second + c);
      }
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        const A x0 = load(a.v + v);
        const A value = entry.first == entry.second ? x0 : lerp(entry.weight, x0, A(load(b.v + v)));
        store(y.v + v, entry.first >= 0 ? value : A(NAN));
      }
      *reinterpret_cast<Pack<O, VEC>*>(o + r * out.width + c) = y;
    }
  }
}

template <class A> __device__ void store_any(const Output& out, int64_t row, int64_t column, A x) {
  const int64_t at = row * out.width + column;
  switch (out.dtype) {
    case DType::f64: return store(static_cast<double*>(out.data) + at, x);
    case DType::f32: return store(static_cast<float*>(out.data) + at, x);
    case DType::f16: return store(static_cast<Half*>(out.data) + at, x);
    case DType::bf16: return store(static_cast<BFloat16*>(out.data) + at, x);
    default:
      static_cast<uint8_t*>(out.data)[at] =
          encode8(out.dtype, out.scale ? float(x / A(out.scale[column])) : float(x));
  }
}

// Mean of the rows [first, last], stepping over samples that an equal stamp follows.
template <class A, class V, class Time>
__device__ A mean_of(const V* x, int64_t stride, const Time* t, int64_t n, int64_t first, int64_t stop) {
  const int64_t start = last_of_run(t, n, first);
  const A base = load(x + start * stride);
  A sum = A(0);
  int64_t count = 1;
  for (int64_t j = start + 1; j < stop; ++j) {
    if (j + 1 < n && t[j + 1] == t[j]) continue;
    sum += A(load(x + j * stride)) - base;
    ++count;
  }
  return base + sum / A(count);
}

template <class V, class Time>
__device__ void general_stream(const Stream& s, const WideEntry* entries, const Targets& targets, const Output& out,
                               int64_t row0, int rows, int index) {
  using A = typename Accumulator<V>::type;
  const V* x = static_cast<const V*>(s.values);
  if (s.mode == Mode::slerp || s.mode == Mode::pose) {
    const int position = s.mode == Mode::pose ? 3 : 0;
    for (int r = threadIdx.x; r < rows; r += kThreads) {  // a thread a row: a quaternion is one value
      const WideEntry entry = entries[r];
      A y[7];
      if (entry.first < 0) {
        for (int c = 0; c < position + 4; ++c) y[c] = A(NAN);
      } else {
        const V* a = x + entry.first;
        const V* b = x + entry.second;
        const bool copy = entry.first == entry.second;
        for (int c = 0; c < position; ++c) {
          y[c] = copy ? A(load(a + c)) : lerp(A(entry.weight), A(load(a + c)), A(load(b + c)));
        }
        A q0[4], q1[4];
        for (int c = 0; c < 4; ++c) {
          q0[c] = load(a + position + c);
          q1[c] = load(b + position + c);
        }
        const bool good = copy ? normalize(q0, y + position) : slerp(A(entry.weight), q0, q1, y + position);
        if (!good) out.valid[(row0 + r) * out.streams + index] = false;
      }
      for (int c = 0; c < position + 4; ++c) store_any(out, row0 + r, s.column + c, y[c]);
    }
    return;
  }
  const unsigned width = unsigned(s.dim);
  for (int64_t e = threadIdx.x; e < int64_t(rows) * width; e += kThreads) {
    const int r = int(e / width);
    const int64_t c = e - int64_t(r) * width;
    const WideEntry& entry = entries[r];
    A y;
    if (entry.first < 0) {
      y = A(NAN);
    } else if (entry.mean) {
      const Time* target;
      const Samples<Time> d = samples_of<Time>(s, place_of(targets, row0 + r, &target).batch);
      y = mean_of<A>(x + d.base + c, s.value_row_stride, d.t, d.n, entry.first, entry.second);
    } else {
      const A x0 = load(x + entry.first + c), x1 = load(x + entry.second + c);
      const bool copy = entry.first == entry.second;
      if (s.mode == Mode::angle) {
        y = copy ? wrap(x0) : lerp_angle(A(entry.weight), x0, x1);
      } else if (copy) {
        y = x0;
      } else if (s.mode == Mode::cubic) {
        const Knots<A> knots{entry.before, entry.after, A(entry.h_before), A(entry.h_after)};
        const A before = entry.before >= 0 ? A(load(x + entry.before + c)) : x0;
        const A after = entry.after >= 0 ? A(load(x + entry.after + c)) : x1;
        y = pchip(knots, A(entry.weight), before, x0, x1, after);
      } else {
        y = lerp(A(entry.weight), x0, x1);
      }
    }
    store_any(out, row0 + r, s.column + c, y);
  }
}

template <class A, class Time>
__device__ WideEntry wide_entry(const Stream& s, const Samples<Time>& d, const Place& p, const Time* target,
                                bool* valid) {
  const Stencil<A> stencil = stencil_of<A>(s, d, p, target);
  *valid = stencil.valid;
  if (d.n == 0) return {-1, -1, -1, -1, 0, 0, 0, false};
  if (stencil.mean) return {stencil.first, stencil.second, -1, -1, 0, 0, 0, true};
  const int64_t stride = s.value_row_stride;
  WideEntry e{d.base + stencil.first * stride, d.base + stencil.second * stride, -1, -1, stencil.weight, 0, 0, false};
  if (s.mode == Mode::cubic && stencil.first != stencil.second) {
    const Knots<A> k = knots_at(d.t, d.n, stencil);
    e.before = k.before < 0 ? -1 : d.base + k.before * stride;
    e.after = k.after < 0 ? -1 : d.base + k.after * stride;
    e.h_before = k.h_before;
    e.h_after = k.h_after;
  }
  return e;
}

template <class Time, int Cap>
__global__ void __launch_bounds__(kThreads, 2)  // 128 registers: slerp and cubic in double need about 80
    general_kernel(const __grid_constant__ Streams<Cap> streams, const Targets targets, const Output out,
                   int rows_log2) {
  extern __shared__ __align__(16) char shared[];
  WideEntry* entries = reinterpret_cast<WideEntry*>(shared);
  const int R = 1 << rows_log2;
  const int64_t row0 = int64_t(blockIdx.x) << rows_log2;
  const int rows = int(targets.rows - row0 < R ? targets.rows - row0 : R);

  for (int e = threadIdx.x; e < streams.count << rows_log2; e += kThreads) {
    const int m = e >> rows_log2, r = e & (R - 1);
    if (r >= rows) continue;
    const Stream& s = streams.s[m];
    const Time* target;
    const Place p = place_of(targets, row0 + r, &target);
    const Samples<Time> d = samples_of<Time>(s, p.batch);
    bool valid;
    entries[e] = s.dtype == DType::f64 ? wide_entry<double>(s, d, p, target, &valid)
                                       : wide_entry<float>(s, d, p, target, &valid);
    out.valid[(row0 + r) * out.streams + streams.first + m] = valid;
  }
  __syncthreads();

  for (int m = 0; m < streams.count; ++m) {
    const Stream& s = streams.s[m];
    const WideEntry* mine = entries + (m << rows_log2);
    const int index = streams.first + m;
    switch (s.dtype) {
      case DType::f64: general_stream<double, Time>(s, mine, targets, out, row0, rows, index); break;
      case DType::f32: general_stream<float, Time>(s, mine, targets, out, row0, rows, index); break;
      case DType::f16: general_stream<Half, Time>(s, mine, targets, out, row0, rows, index); break;
      default: general_stream<BFloat16, Time>(s, mine, targets, out, row0, rows, index);
    }
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

struct Shape {
  int rows_log2;
  unsigned blocks;
  size_t shared;
};

// Rows a block: enough elements for every thread, a power of two, entries within the shared memory.
Shape shape_for(int64_t rows, int64_t width, int64_t streams, size_t entry) {
  int log2 = 8;  // at most one entry a thread and stream
  while (log2 > 0 && (((width << log2) > kElementsPerBlock && log2 > 4) ||
                      (size_t(streams) << log2) * entry > size_t(kSharedBytes))) {
    --log2;
  }
  // Few rows: smaller blocks rather than idle multiprocessors.
  while (log2 > 3 && (rows >> log2) < 264) --log2;
  return {log2, unsigned((rows + (int64_t(1) << log2) - 1) >> log2), (size_t(streams) << log2) * entry};
}

template <int Cap>
Streams<Cap> pack(const Stream* streams, int first, int count) {
  Streams<Cap> p;
  p.count = count;
  p.first = first;
  for (int m = 0; m < count; ++m) p.s[m] = streams[first + m];
  return p;
}

bool light(Mode mode) {
  return mode == Mode::linear || mode == Mode::nearest || mode == Mode::previous || mode == Mode::next;
}

template <int VEC, class V, class O>
bool aligned(const Stream* streams, int count, const Output& out) {
  bool good = out.width % VEC == 0 && reinterpret_cast<uintptr_t>(out.data) % (sizeof(O) * VEC) == 0;
  for (int m = 0; m < count; ++m) {
    const Stream& s = streams[m];
    good = good && s.dim % VEC == 0 && s.column % VEC == 0 && s.value_row_stride % VEC == 0 &&
           s.value_batch_stride % VEC == 0 && reinterpret_cast<uintptr_t>(s.values) % (sizeof(V) * VEC) == 0;
  }
  return good;
}

template <class Time, class V, class O, int Cap>
void launch_light(const Stream* streams, int first, int count, const Targets& targets, const Output& out,
                  cudaStream_t queue) {
  using A = typename Accumulator<V>::type;
  constexpr int VEC = 16 / sizeof(V);
  const Shape shape = shape_for(targets.rows, out.width, count, sizeof(Entry<A>));
  const Streams<Cap> p = pack<Cap>(streams, first, count);
  if (aligned<VEC, V, O>(streams + first, count, out)) {
    light_kernel<Time, V, O, VEC, Cap><<<shape.blocks, kThreads, shape.shared, queue>>>(p, targets, out,
                                                                                        shape.rows_log2);
  } else {
    light_kernel<Time, V, O, 1, Cap><<<shape.blocks, kThreads, shape.shared, queue>>>(p, targets, out,
                                                                                      shape.rows_log2);
  }
}

template <class Time, int Cap>
void launch(const Stream* streams, int first, int count, const Targets& targets, const Output& out,
            cudaStream_t queue) {
  bool simple = Cap == kFew;
  const DType dtype = streams[first].dtype;
  for (int m = first; m < first + count; ++m) simple = simple && light(streams[m].mode) && streams[m].dtype == dtype;
  if constexpr (Cap == kFew) {
    if (simple && dtype == DType::f32 && out.dtype == DType::f32)
      return launch_light<Time, float, float, Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::f64 && out.dtype == DType::f32)
      return launch_light<Time, double, float, Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::f64 && out.dtype == DType::f64)
      return launch_light<Time, double, double, Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::bf16 && out.dtype == DType::bf16)
      return launch_light<Time, BFloat16, BFloat16, Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::f16 && out.dtype == DType::f16)
      return launch_light<Time, Half, Half, Cap>(streams, first, count, targets, out, queue);
  }
  const Shape shape = shape_for(targets.rows, out.width, count, sizeof(WideEntry));
  general_kernel<Time, Cap><<<shape.blocks, kThreads, shape.shared, queue>>>(pack<Cap>(streams, first, count), targets,
                                                                             out, shape.rows_log2);
}

template <class Time>
void fuse_as(const Stream* streams, const Targets& targets, const Output& out, cudaStream_t queue) {
  if (targets.rows == 0) return;
  const int count = int(out.streams);
  if (count <= kFew) return launch<Time, kFew>(streams, 0, count, targets, out, queue);
  for (int first = 0; first < count; first += kMany) {
    launch<Time, kMany>(streams, first, count - first < kMany ? count - first : kMany, targets, out, queue);
  }
}

}  // namespace

void cuda::fuse(TimeType time_type, const Stream* streams, const Targets& targets, const Output& out,
                cudaStream_t queue) {
  switch (time_type) {
    case TimeType::i64: return fuse_as<int64_t>(streams, targets, out, queue);
    case TimeType::f64: return fuse_as<double>(streams, targets, out, queue);
    default: return fuse_as<float>(streams, targets, out, queue);
  }
}

}  // namespace robocache
