// The kernel of the copying and linear modes, all streams of one value dtype. See fuse_impl.cuh.
#pragma once
#include <cuda_runtime.h>

#include "tasks.cuh"

namespace robocache {
namespace {

// A stencil in shared memory. first, second: element offsets of the two rows; equal: copy; -1: empty stream.
template <class A> struct Entry {
  int64_t first, second;
  A weight;
};

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

}  // namespace
}  // namespace robocache
