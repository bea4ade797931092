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
// Shared:  Entry[8 warps][32] (6 KiB); in the general kernel WideEntry[8][32] (12 or 16 KiB) and the quaternions' rows
//          [8][32][2][7] (14 or 28 KiB); static, no opt-in.
// Bytes:   reads two samples (D values) and the bracket's stamps a target, writes D values and one valid flag. Two
//          neighbouring targets share samples through L1/L2.
//
// Two kernels: `light_kernel` for the copying and linear modes with values of one type, with registers to spare for
// occupancy; `general_kernel` for every mode, dtype and mixture.
#pragma once
#include <cuda_runtime.h>

#include "fuse.h"
#include "robocache/math.h"

namespace robocache {
namespace {

constexpr int kWarps = 8;             // a block, so that 2048 threads an SM need only 8 blocks
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 32;             // targets a task: one a lane
constexpr int kFew = 8, kMany = 256;  // streams a launch; the parameters travel by value (kMany: 24 KiB of 32)

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
template <class A> struct WideEntry {
  int64_t first, second;
  int64_t before, after;  // element offsets of the outer rows or -1
  A weight, h_before, h_after;
  bool mean, repeats;
};

// Last b with offsets[b] <= row, by the whole warp: 32 probes at once, so 10,000 episodes take three loads one after the
// other. The lanes must call it together.
__device__ int64_t episode_of(const int64_t* offsets, int64_t batch, int64_t row) {
  int64_t low = 0, high = batch;
  while (high - low > 1) {
    const int64_t step = (high - low + 32) / 33;
    const int64_t probe = low + (threadIdx.x % 32 + 1) * step;
    const unsigned before = __ballot_sync(~0u, probe < high && offsets[probe] <= row);
    low += __popc(before) * step;
    high = high < low + step ? high : low + step;
  }
  return low;
}

struct Place {  // one target of the batch
  int64_t batch, k, count;
};

// `first`: an episode at or before this row's, from episode_of.
template <class Time>
__device__ Place place_of(const Targets& targets, int64_t row, int64_t first, const Time** target) {
  Place p;
  const Time* times = static_cast<const Time*>(targets.times);
  if (targets.offsets) {
    p.batch = first + locate<false>(targets.offsets + first, targets.batch - first, row, 0);
    p.batch = p.batch < 0 ? 0 : p.batch;
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

// The first row's episode, for place_of; nothing to look up in a dense batch.
__device__ int64_t first_episode(const Targets& targets, const Task& task) {
  return targets.offsets ? episode_of(targets.offsets, targets.batch, task.row0) : 0;
}

// Pairs of loads in flight a lane: two of 16 bytes are 64 KiB an SM at half occupancy, four times what 3 TB/s at 700 ns
// needs; narrower ones are fewer bytes each, so more of them.
template <class V, int VEC> constexpr int kUnroll = sizeof(V) * VEC == 16 ? 2 : 4;

template <class Time, class V, class O, int VEC, int Cap>
__global__ void __launch_bounds__(kThreads, 4)  // 64 registers; the compiler's own choice of 32 spills on sm_80
    light_kernel(const __grid_constant__ Streams<Cap> streams, const Targets targets, const Output out) {
  using A = typename Accumulator<V>::type;
  constexpr int U = kUnroll<V, VEC>;
  __shared__ Entry<A> shared[kWarps][kRows];
  Entry<A>* entries = shared[threadIdx.x / 32];
  const int lane = threadIdx.x % 32;
  Task task;
  if (!task_of(targets.rows, streams.count, &task)) return;
  const Stream& s = streams.s[task.m];
  const int64_t first = first_episode(targets, task);

  if (lane < task.rows) {
    const Time* target;
    const Place p = place_of(targets, task.row0 + lane, first, &target);
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

// Mean of the rows [first, stop), summed in order. Four loads are on their way at once.
template <class A, class V> __device__ A mean_of(const V* x, int64_t stride, int64_t first, int64_t stop) {
  const A base = load(x + first * stride);
  A sum = A(0);
  int64_t j = first + 1;
  for (; j + 4 <= stop; j += 4) {
    A next[4];
#pragma unroll
    for (int u = 0; u < 4; ++u) next[u] = load(x + (j + u) * stride);
#pragma unroll
    for (int u = 0; u < 4; ++u) sum += next[u] - base;
  }
  for (; j < stop; ++j) sum += A(load(x + j * stride)) - base;
  return base + sum / A(stop - first);
}

// The same where samples share stamps: of those only the last exists.
template <class A, class V, class Time>
__device__ A mean_of_last(const V* x, int64_t stride, const Samples<Time>& d, int64_t first, int64_t stop) {
  first = last_of_run(d.t, d.n, first);
  const A base = load(x + first * stride);
  A sum = A(0);
  int64_t count = 1;
  for (int64_t j = first + 1; j < stop; ++j) {
    if (j + 1 < d.n && d.t[j + 1] == d.t[j]) continue;
    sum += A(load(x + j * stride)) - base;
    ++count;
  }
  return base + sum / A(count);
}

// slerp and pose: a lane a row, since a quaternion is one value. Rows pass through the warp's shared memory, so that
// device memory is read and written by neighbouring lanes in neighbouring columns.
template <class V, class A>
__device__ void quaternion_rows(const Stream& s, const WideEntry<A>* entries, const Output& out, const Task& task,
                                int index, A* shared) {
  using S = typename Accumulator<V>::type;
  S(*staged)[2][7] = reinterpret_cast<S(*)[2][7]>(shared);
  const int lane = threadIdx.x % 32, position = s.mode == Mode::pose ? 3 : 0, width = position + 4;
  const V* x = static_cast<const V*>(s.values);
  for (int e = lane; e < task.rows * width; e += 32) {
    const int r = e / width, c = e - r * width;
    const bool some = entries[r].first >= 0;
    staged[r][0][c] = some ? S(load(x + entries[r].first + c)) : S(NAN);
    staged[r][1][c] = some ? S(load(x + entries[r].second + c)) : S(NAN);
  }
  __syncwarp();
  if (lane < task.rows && entries[lane].first >= 0) {
    const WideEntry<A>& entry = entries[lane];
    const bool copy = entry.first == entry.second;
    S* a = staged[lane][0];
    const S* b = staged[lane][1];
    for (int c = 0; c < position; ++c) a[c] = copy ? a[c] : lerp(S(entry.weight), a[c], b[c]);
    S y[4];
    const bool good = copy ? normalize(a + position, y) : slerp(S(entry.weight), a + position, b + position, y);
    for (int c = 0; c < 4; ++c) a[position + c] = y[c];
    if (!good) out.valid[(task.row0 + lane) * out.streams + index] = false;
  }
  __syncwarp();
  for (int e = lane; e < task.rows * width; e += 32) {
    const int r = e / width, c = e - r * width;
    store_any(out, task.row0 + r, s.column + c, staged[r][0][c]);
  }
}

// Every other mode: the warp sweeps its 32 x D elements, four a lane at once so that their loads overlap. `element`
// makes one of (row, column).
template <class A, class Element>
__device__ void sweep(const Stream& s, const Output& out, const Task& task, const Element& element) {
  const unsigned width = unsigned(s.dim), total = unsigned(task.rows) * width;
  for (unsigned begin = threadIdx.x % 32; begin < total; begin += 128) {
    A y[4];
#pragma unroll
    for (unsigned u = 0; u < 4; ++u) {
      const unsigned e = begin + 32 * u < total ? begin + 32 * u : begin, r = e / width;
      y[u] = element(r, e - r * width);
    }
#pragma unroll
    for (unsigned u = 0; u < 4; ++u) {
      const unsigned e = begin + 32 * u, r = e / width;
      if (e < total) store_any(out, task.row0 + r, s.column + (e - r * width), y[u]);
    }
  }
}

template <class V, class A, class Time>
__device__ void general_task(const Stream& s, const WideEntry<A>* entries, const Targets& targets, const Output& out,
                             const Task& task, int index, A* staged) {
  using S = typename Accumulator<V>::type;
  const V* x = static_cast<const V*>(s.values);
  switch (s.mode) {
    case Mode::slerp:
    case Mode::pose: return quaternion_rows<V>(s, entries, out, task, index, staged);
    case Mode::cubic:
      return sweep<S>(s, out, task, [&](unsigned r, unsigned c) {
        const WideEntry<A>& e = entries[r];
        if (e.first < 0) return S(NAN);
        const S x0 = load(x + e.first + c), x1 = load(x + e.second + c);
        const S before = e.before >= 0 ? S(load(x + e.before + c)) : x0;
        const S after = e.after >= 0 ? S(load(x + e.after + c)) : x1;
        const Knots<S> knots{e.before, e.after, S(e.h_before), S(e.h_after)};
        return e.first == e.second ? x0 : pchip(knots, S(e.weight), before, x0, x1, after);
      });
    case Mode::angle:
      return sweep<S>(s, out, task, [&](unsigned r, unsigned c) {
        const WideEntry<A>& e = entries[r];
        if (e.first < 0) return S(NAN);
        const S x0 = load(x + e.first + c), x1 = load(x + e.second + c);
        return e.first == e.second ? wrap(x0) : lerp_angle(S(e.weight), x0, x1);
      });
    case Mode::mean:
      return sweep<S>(s, out, task, [&](unsigned r, unsigned c) {
        const WideEntry<A>& e = entries[r];
        if (e.first < 0) return S(NAN);
        if (!e.mean) {
          const S x0 = load(x + e.first + c);
          return e.first == e.second ? x0 : lerp(S(e.weight), x0, S(load(x + e.second + c)));
        }
        const V* column = x + e.before + c;
        if (!e.repeats) return mean_of<S>(column, s.value_row_stride, e.first, e.second);
        const Time* target;
        const Samples<Time> d = samples_of<Time>(s, place_of(targets, task.row0 + r, 0, &target).batch);
        return mean_of_last<S>(column, s.value_row_stride, d, e.first, e.second);
      });
    default:
      return sweep<S>(s, out, task, [&](unsigned r, unsigned c) {
        const WideEntry<A>& e = entries[r];
        if (e.first < 0) return S(NAN);
        const S x0 = load(x + e.first + c), x1 = load(x + e.second + c);
        return e.first == e.second ? x0 : lerp(S(e.weight), x0, x1);
      });
  }
}

// `S` is the stream's own accumulator, `A` the kernel's: wide enough for every stream of the launch.
template <class S, class A, class Time>
__device__ WideEntry<A> wide_entry(const Stream& s, const Samples<Time>& d, const Place& p, const Time* target,
                                   bool* valid) {
  const Stencil<S> stencil = stencil_of<S>(s, d, p, target);
  *valid = stencil.valid;
  if (d.n == 0) return {-1, -1, -1, -1, 0, 0, 0, false, false};
  if (stencil.mean) {
    bool repeats = false;
    for (int64_t j = stencil.first; j < stencil.second && j + 1 < d.n; ++j) repeats |= d.t[j + 1] == d.t[j];
    return {stencil.first, stencil.second, d.base, -1, 0, 0, 0, true, repeats};
  }
  const int64_t stride = s.value_row_stride;
  WideEntry<A> e{d.base + stencil.first * stride, d.base + stencil.second * stride, -1, -1, stencil.weight, 0, 0, false,
                 false};
  if (s.mode == Mode::cubic && stencil.first != stencil.second) {
    const Knots<S> k = knots_at(d.t, d.n, stencil);
    e.before = k.before < 0 ? -1 : d.base + k.before * stride;
    e.after = k.after < 0 ? -1 : d.base + k.after * stride;
    e.h_before = k.h_before;
    e.h_after = k.h_after;
  }
  return e;
}

// A: float where no stream is float64, which halves the registers, else double. A float32 stream is computed in float32
// in both, so its bits do not depend on its company.
template <class Time, class A, int Cap>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 4 : 2)  // 64 and 128 registers: no spills on sm_80 to sm_120
    general_kernel(const __grid_constant__ Streams<Cap> streams, const Targets targets, const Output out) {
  __shared__ WideEntry<A> shared[kWarps][kRows];
  __shared__ A rows[kWarps][kRows][2][7];
  WideEntry<A>* entries = shared[threadIdx.x / 32];
  A* staged = &rows[threadIdx.x / 32][0][0][0];
  const int lane = threadIdx.x % 32;
  Task task;
  if (!task_of(targets.rows, streams.count, &task)) return;
  const Stream& s = streams.s[task.m];
  const int index = streams.first + task.m;
  const int64_t first = first_episode(targets, task);

  if (lane < task.rows) {
    const Time* target;
    const Place p = place_of(targets, task.row0 + lane, first, &target);
    const Samples<Time> d = samples_of<Time>(s, p.batch);
    bool valid;
    if (sizeof(A) == 8 && s.dtype == DType::f64) {
      entries[lane] = wide_entry<A, A>(s, d, p, target, &valid);
    } else {
      entries[lane] = wide_entry<float, A>(s, d, p, target, &valid);
    }
    out.valid[(task.row0 + lane) * out.streams + index] = valid;
  }
  __syncwarp();

  switch (s.dtype) {
    case DType::f64:
      if constexpr (sizeof(A) == 8) general_task<double, A, Time>(s, entries, targets, out, task, index, staged);
      return;
    case DType::f32: return general_task<float, A, Time>(s, entries, targets, out, task, index, staged);
    case DType::f16: return general_task<Half, A, Time>(s, entries, targets, out, task, index, staged);
    default: return general_task<BFloat16, A, Time>(s, entries, targets, out, task, index, staged);
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
  const DType dtype = streams[first].dtype;
  bool simple = Cap == kFew, wide = false;
  for (int m = first; m < first + count; ++m) {
    simple = simple && light(streams[m].mode) && streams[m].dtype == dtype;
    wide = wide || streams[m].dtype == DType::f64;
  }
  // float32 stamps resolve too little for real clocks: they take the general kernel and spare a third of the build.
  if constexpr (Cap == kFew && sizeof(Time) == 8) {
    const auto both = [&](DType in, DType o) { return simple && dtype == in && out.dtype == o; };
    if (both(DType::f32, DType::f32))
      return launch_light<Time, float, float, 4, Cap>(streams, first, count, targets, out, queue);
    if (both(DType::f64, DType::f32))
      return launch_light<Time, double, float, 2, Cap>(streams, first, count, targets, out, queue);
    if (both(DType::f64, DType::f64))
      return launch_light<Time, double, double, 2, Cap>(streams, first, count, targets, out, queue);
    if (both(DType::bf16, DType::bf16))
      return launch_light<Time, BFloat16, BFloat16, 8, Cap>(streams, first, count, targets, out, queue);
    if (both(DType::f16, DType::f16))
      return launch_light<Time, Half, Half, 8, Cap>(streams, first, count, targets, out, queue);
  }
  const auto kernel = wide ? general_kernel<Time, double, Cap> : general_kernel<Time, float, Cap>;
  kernel<<<blocks_for(targets.rows, count), kThreads, 0, queue>>>(pack<Cap>(streams, first, count), targets, out);
}

}  // namespace

// One time dtype's kernels; fuse_*.cu instantiate one each, so that they compile side by side.
template <class Time>
void fuse_as(const Stream* streams, const Targets& targets, const Output& out, cudaStream_t queue) {
  if (targets.rows == 0) return;
  const int count = int(out.streams);
  if (count <= kFew) return launch<Time, kFew>(streams, 0, count, targets, out, queue);
  for (int first = 0; first < count; first += kMany) {
    launch<Time, kMany>(streams, first, count - first < kMany ? count - first : kMany, targets, out, queue);
  }
}

}  // namespace robocache
