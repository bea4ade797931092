// Aligns and fuses a batch of streams on the GPU.
//
// Work:    a warp takes one task: 32 consecutive output rows (targets; episode borders do not matter) of one stream.
//          Tasks of one tile's streams lie side by side, so that their pieces of a row meet in L2. Jagged batches are
//          balanced by that: a task's work does not depend on episode lengths. Warps never wait for each other.
// Step 1:  each lane finds bracket and weight of its own target and leaves them in the warp's shared memory. The search
//          starts where a steady rate would put the stamp, so it takes a few loads, not log2(n).
// Step 2:  the warp sweeps the 32 x D elements; neighbouring lanes take neighbouring columns, so loads and stores are
//          coalesced, up to 16 bytes a lane where widths and addresses allow (VEC values). Each lane issues the loads
//          of several elements (kUnroll) before it uses the first.
// Shared:  Entry[8 warps][32] (6 KiB), WideEntry[8 warps][32] (16 KiB) in the general kernel; static, no opt-in.
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

constexpr int kWarps = 8;             // a block, so that 2048 threads an SM need only 8 blocks
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 32;             // targets a task: one a lane
constexpr int kFew = 8, kMany = 256;  // streams a launch; the parameters travel by value (kMany: 27 KiB of 32)

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

// What the general kernel also needs: the cubic's outer rows. For mean: samples [first, second) of the episode whose
// first row is at element `before`; repeats: some of them share a stamp.
struct WideEntry {
  int64_t first, second;
  int64_t before, after;  // element offsets of the outer rows or -1
  double weight, h_before, h_after;
  bool mean, repeats;
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

// Outputs are not read again by these kernels: leave the cache to the samples that neighbours share.
template <class P> __device__ void store_streaming(P* at, const P& value) {
  if constexpr (sizeof(P) == 16) {
    __stcs(reinterpret_cast<uint4*>(at), *reinterpret_cast<const uint4*>(&value));
  } else if constexpr (sizeof(P) == 8) {
    __stcs(reinterpret_cast<uint2*>(at), *reinterpret_cast<const uint2*>(&value));
  } else if constexpr (sizeof(P) == 4) {
    __stcs(reinterpret_cast<unsigned*>(at), *reinterpret_cast<const unsigned*>(&value));
  } else {
    *at = value;
  }
}

// The task of this warp: rows [row0, row0 + rows) of stream m. False where there is none left.
struct Task {
  int64_t row0;
  int rows, m;
};
__device__ bool task_of(int64_t total_rows, int streams, Task* task) {
  const int64_t id = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t tile = id / streams;
  task->m = int(id - tile * streams);
  task->row0 = tile * kRows;
  task->rows = int(total_rows - task->row0 < kRows ? total_rows - task->row0 : kRows);
  return task->row0 < total_rows;
}

// Pairs of loads in flight a lane: two of 16 bytes are 64 KiB an SM at half occupancy, four times what 3 TB/s at 700 ns
// needs; narrower ones are fewer bytes each, so more of them.
template <class V, int VEC> constexpr int kUnroll = sizeof(V) * VEC == 16 ? 2 : 4;

template <class Time, class V, class O, int VEC, int Cap>
__global__ void __launch_bounds__(kThreads, 4)  // 64 registers: the compiler's own guess of 32 spills on sm_80
    light_kernel(const __grid_constant__ Streams<Cap> streams, const Targets targets, const Output out) {
  using A = typename Accumulator<V>::type;
  constexpr int U = kUnroll<V, VEC>;
  __shared__ Entry<A> shared[kWarps][kRows];
  Entry<A>* entries = shared[threadIdx.x / 32];
  const int lane = threadIdx.x % 32;
  Task task;
  if (!task_of(targets.rows, streams.count, &task)) return;
  const Stream& s = streams.s[task.m];

  if (lane < task.rows) {
    const Time* target;
    const Place p = place_of(targets, task.row0 + lane, &target);
    const Samples<Time> d = samples_of<Time>(s, p.batch);
    const Stencil<A> stencil = stencil_of<A>(s, d, p, target);
    entries[lane] = {d.n ? d.base + stencil.first * s.value_row_stride : -1,
                     d.n ? d.base + stencil.second * s.value_row_stride : -1, stencil.weight};
    // first == second means copy, also where a stride of 0 makes two rows one
    out.valid[(task.row0 + lane) * out.streams + streams.first + task.m] = stencil.valid;
  }
  __syncwarp();

  const V* x = static_cast<const V*>(s.values);
  O* o = static_cast<O*>(out.data) + task.row0 * out.width + s.column;
  const unsigned packs = unsigned(s.dim / VEC), total = unsigned(task.rows) * packs;
  for (unsigned begin = lane; begin < total; begin += 32 * U) {
    Pack<V, VEC> a[U], b[U];
    unsigned row[U];  // all that is kept of an element's place: registers are for the loads in flight
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const unsigned e = begin + 32 * u;
      row[u] = e / packs;
      if (e < total && entries[row[u]].first >= 0) {
        const unsigned c = (e - row[u] * packs) * VEC;
        a[u] = *reinterpret_cast<const Pack<V, VEC>*>(x + entries[row[u]].first + c);
        b[u] = *reinterpret_cast<const Pack<V, VEC>*>(x + entries[row[u]].second + c);
      }
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const unsigned e = begin + 32 * u;
      if (e >= total) break;
      const Entry<A>& entry = entries[row[u]];
      const bool copy = entry.first == entry.second, none = entry.first < 0;
      Pack<O, VEC> y;
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        const A x0 = load(a[u].v + v);
        const A value = copy ? x0 : lerp(entry.weight, x0, A(load(b[u].v + v)));
        store(y.v + v, none ? A(NAN) : value);
      }
      store_streaming(reinterpret_cast<Pack<O, VEC>*>(o + row[u] * out.width + (e - row[u] * packs) * VEC), y);
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

// Mean of the rows [first, stop). `repeats`: some sample there has the stamp of the next one and does not exist.
template <class A, class V, class Time>
__device__ A mean_of(const V* x, int64_t stride, const Samples<Time>& d, int64_t first, int64_t stop, bool repeats) {
  if (repeats) first = last_of_run(d.t, d.n, first);
  const A base = load(x + first * stride);
  A sum = A(0);
  int64_t count = 1;
  for (int64_t j = first + 1; j < stop; ++j) {
    if (repeats && j + 1 < d.n && d.t[j + 1] == d.t[j]) continue;
    sum += A(load(x + j * stride)) - base;
    ++count;
  }
  return base + sum / A(count);
}

// slerp and pose: a lane a row, since a quaternion is one value.
template <class V>
__device__ void quaternion_rows(const Stream& s, const WideEntry* entries, const Output& out, const Task& task,
                                int index) {
  using A = typename Accumulator<V>::type;
  const int lane = threadIdx.x % 32, position = s.mode == Mode::pose ? 3 : 0;
  if (lane >= task.rows) return;
  const WideEntry& entry = entries[lane];
  const int64_t row = task.row0 + lane;
  A y[7];
  if (entry.first < 0) {
    for (int c = 0; c < position + 4; ++c) store_any(out, row, s.column + c, A(NAN));
    return;
  }
  const V* a = static_cast<const V*>(s.values) + entry.first;
  const V* b = static_cast<const V*>(s.values) + entry.second;
  const bool copy = entry.first == entry.second;
  for (int c = 0; c < position; ++c) y[c] = copy ? A(load(a + c)) : lerp(A(entry.weight), A(load(a + c)), A(load(b + c)));
  A q0[4], q1[4];
  for (int c = 0; c < 4; ++c) {
    q0[c] = load(a + position + c);
    q1[c] = load(b + position + c);
  }
  const bool good = copy ? normalize(q0, y + position) : slerp(A(entry.weight), q0, q1, y + position);
  if (!good) out.valid[row * out.streams + index] = false;
  for (int c = 0; c < position + 4; ++c) store_any(out, row, s.column + c, y[c]);
}

// Every other mode: the warp sweeps its 32 x D elements. `element` makes one of (row, column).
template <class Element>
__device__ void sweep(const Stream& s, const Output& out, const Task& task, const Element& element) {
  const unsigned width = unsigned(s.dim);
  for (int64_t e = threadIdx.x % 32; e < int64_t(task.rows) * width; e += 32) {
    const unsigned r = unsigned(e / width);
    const int64_t c = e - int64_t(r) * width;
    store_any(out, task.row0 + r, s.column + c, element(r, c));
  }
}

template <class V, class Time>
__device__ void general_task(const Stream& s, const WideEntry* entries, const Targets& targets, const Output& out,
                             const Task& task, int index) {
  using A = typename Accumulator<V>::type;
  const V* x = static_cast<const V*>(s.values);
  switch (s.mode) {
    case Mode::slerp:
    case Mode::pose: return quaternion_rows<V>(s, entries, out, task, index);
    case Mode::cubic:
      return sweep(s, out, task, [&](unsigned r, int64_t c) {
        const WideEntry& e = entries[r];
        if (e.first < 0) return A(NAN);
        const A x0 = load(x + e.first + c), x1 = load(x + e.second + c);
        const A before = e.before >= 0 ? A(load(x + e.before + c)) : x0;
        const A after = e.after >= 0 ? A(load(x + e.after + c)) : x1;
        const Knots<A> knots{e.before, e.after, A(e.h_before), A(e.h_after)};
        return e.first == e.second ? x0 : pchip(knots, A(e.weight), before, x0, x1, after);
      });
    case Mode::angle:
      return sweep(s, out, task, [&](unsigned r, int64_t c) {
        const WideEntry& e = entries[r];
        if (e.first < 0) return A(NAN);
        const A x0 = load(x + e.first + c), x1 = load(x + e.second + c);
        return e.first == e.second ? wrap(x0) : lerp_angle(A(e.weight), x0, x1);
      });
    default:
      return sweep(s, out, task, [&](unsigned r, int64_t c) {
        const WideEntry& e = entries[r];
        if (e.first < 0) return A(NAN);
        if (e.mean) {
          const Time* target;
          const Samples<Time> d = e.repeats ? samples_of<Time>(s, place_of(targets, task.row0 + r, &target).batch)
                                            : Samples<Time>{};
          return mean_of<A>(x + e.before + c, s.value_row_stride, d, e.first, e.second, e.repeats);
        }
        const A x0 = load(x + e.first + c);
        return e.first == e.second ? x0 : lerp(A(e.weight), x0, A(load(x + e.second + c)));
      });
  }
}

template <class A, class Time>
__device__ WideEntry wide_entry(const Stream& s, const Samples<Time>& d, const Place& p, const Time* target,
                                bool* valid) {
  const Stencil<A> stencil = stencil_of<A>(s, d, p, target);
  *valid = stencil.valid;
  if (d.n == 0) return {-1, -1, -1, -1, 0, 0, 0, false, false};
  if (stencil.mean) {
    bool repeats = false;
    for (int64_t j = stencil.first; j < stencil.second && j + 1 < d.n; ++j) repeats |= d.t[j + 1] == d.t[j];
    return {stencil.first, stencil.second, d.base, -1, 0, 0, 0, true, repeats};
  }
  const int64_t stride = s.value_row_stride;
  WideEntry e{d.base + stencil.first * stride, d.base + stencil.second * stride, -1, -1, stencil.weight, 0, 0, false,
              false};
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
    general_kernel(const __grid_constant__ Streams<Cap> streams, const Targets targets, const Output out) {
  __shared__ WideEntry shared[kWarps][kRows];
  WideEntry* entries = shared[threadIdx.x / 32];
  const int lane = threadIdx.x % 32;
  Task task;
  if (!task_of(targets.rows, streams.count, &task)) return;
  const Stream& s = streams.s[task.m];
  const int index = streams.first + task.m;

  if (lane < task.rows) {
    const Time* target;
    const Place p = place_of(targets, task.row0 + lane, &target);
    const Samples<Time> d = samples_of<Time>(s, p.batch);
    bool valid;
    entries[lane] = s.dtype == DType::f64 ? wide_entry<double>(s, d, p, target, &valid)
                                          : wide_entry<float>(s, d, p, target, &valid);
    out.valid[(task.row0 + lane) * out.streams + index] = valid;
  }
  __syncwarp();

  switch (s.dtype) {
    case DType::f64: return general_task<double, Time>(s, entries, targets, out, task, index);
    case DType::f32: return general_task<float, Time>(s, entries, targets, out, task, index);
    case DType::f16: return general_task<Half, Time>(s, entries, targets, out, task, index);
    default: return general_task<BFloat16, Time>(s, entries, targets, out, task, index);
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

// Blocks for all tasks; 2^31 blocks are 2^39 rows of one stream.
unsigned blocks_for(int64_t rows, int64_t streams) {
  return unsigned(((rows + kRows - 1) / kRows * streams + kWarps - 1) / kWarps);
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

template <class Time, class V, class O, int VEC, int Cap>
void launch_light(const Stream* streams, int first, int count, const Targets& targets, const Output& out,
                  cudaStream_t queue) {
  if constexpr (VEC > 1) {  // the widest access that all streams and the output allow
    if (!aligned<VEC, V, O>(streams + first, count, out)) {
      return launch_light<Time, V, O, VEC / 2, Cap>(streams, first, count, targets, out, queue);
    }
  }
  light_kernel<Time, V, O, VEC, Cap><<<blocks_for(targets.rows, count), kThreads, 0, queue>>>(
      pack<Cap>(streams, first, count), targets, out);
}

template <class Time, int Cap>
void launch(const Stream* streams, int first, int count, const Targets& targets, const Output& out,
            cudaStream_t queue) {
  bool simple = Cap == kFew;
  const DType dtype = streams[first].dtype;
  for (int m = first; m < first + count; ++m) simple = simple && light(streams[m].mode) && streams[m].dtype == dtype;
  if constexpr (Cap == kFew) {
    if (simple && dtype == DType::f32 && out.dtype == DType::f32)
      return launch_light<Time, float, float, 16 / sizeof(float), Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::f64 && out.dtype == DType::f32)
      return launch_light<Time, double, float, 16 / sizeof(double), Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::f64 && out.dtype == DType::f64)
      return launch_light<Time, double, double, 16 / sizeof(double), Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::bf16 && out.dtype == DType::bf16)
      return launch_light<Time, BFloat16, BFloat16, 16 / sizeof(BFloat16), Cap>(streams, first, count, targets, out, queue);
    if (simple && dtype == DType::f16 && out.dtype == DType::f16)
      return launch_light<Time, Half, Half, 16 / sizeof(Half), Cap>(streams, first, count, targets, out, queue);
  }
  general_kernel<Time, Cap><<<blocks_for(targets.rows, count), kThreads, 0, queue>>>(pack<Cap>(streams, first, count),
                                                                                     targets, out);
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
