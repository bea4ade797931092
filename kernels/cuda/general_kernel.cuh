// The kernel of every mode, value dtype and mixture. See fuse_impl.cuh.
#pragma once
#include <cuda_runtime.h>

#include "tasks.cuh"

namespace robocache {
namespace {

// What the general kernel also needs: the cubic's outer rows. For mean: samples [first, second) of the episode whose
// first row is at element `before`; repeats: some of them share a stamp.
template <class A> struct WideEntry {
  int64_t first, second;
  int64_t before, after;  // element offsets of the outer rows or -1
  A weight, h_before, h_after;
  bool mean, repeats;
};

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

}  // namespace
}  // namespace robocache
