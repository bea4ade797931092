// Several neighbouring values by one access.
#pragma once
#include <cuda_runtime.h>

#include <cstring>
#include <type_traits>

#include "robocache/core/storage.h"

// What benchmarks/ablations.py turns off to see what it is worth.
#ifndef ROBOCACHE_STREAMING_STORES
#define ROBOCACHE_STREAMING_STORES 1
#endif

namespace robocache {
namespace {

// N values that one access moves (16 bytes at most).
template <class V, int N> struct alignas(sizeof(V) * N > 16 ? 16 : sizeof(V) * N) Pack {
  V v[N];
};

template <int VEC, class V> __device__ Pack<V, VEC> load_pack(const V* at) {
  return *reinterpret_cast<const Pack<V, VEC>*>(at);
}

// Outputs are not read again by these kernels: leave the cache to the samples that neighbours share.
template <class P> __device__ void store_streaming(P* at, const P& value) {
  if constexpr (!ROBOCACHE_STREAMING_STORES) {
    *at = value;
  } else if constexpr (sizeof(P) > 16) {
    const uint4* from = reinterpret_cast<const uint4*>(&value);
#pragma unroll
    for (int i = 0; i < int(sizeof(P) / 16); ++i) __stcs(reinterpret_cast<uint4*>(at) + i, from[i]);
  } else if constexpr (sizeof(P) == 16) {
    __stcs(reinterpret_cast<uint4*>(at), *reinterpret_cast<const uint4*>(&value));
  } else if constexpr (sizeof(P) == 8) {
    __stcs(reinterpret_cast<uint2*>(at), *reinterpret_cast<const uint2*>(&value));
  } else if constexpr (sizeof(P) == 4) {
    __stcs(reinterpret_cast<unsigned*>(at), *reinterpret_cast<const unsigned*>(&value));
  } else {
    *at = value;
  }
}

// Rounds N values; 16-bit ones two at a time.
template <class O, int N, class A> __device__ Pack<O, N> rounded(const A (&y)[N]) {
  Pack<O, N> p;
  if constexpr (sizeof(O) == 2 && N % 2 == 0 && std::is_same_v<A, float>) {
    uint32_t two[N / 2];
#pragma unroll
    for (int v = 0; v < N / 2; ++v) {
      if constexpr (std::is_same_v<O, Half>) {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two[v]) : "f"(y[2 * v + 1]), "f"(y[2 * v]));
      } else {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two[v]) : "f"(y[2 * v + 1]), "f"(y[2 * v]));
      }
    }
    memcpy(&p, two, sizeof p);
  } else {
#pragma unroll
    for (int v = 0; v < N; ++v) store(p.v + v, y[v]);
  }
  return p;
}

}  // namespace
}  // namespace robocache
