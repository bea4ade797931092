// A warp's tile: which rows of which stream, and where each lane's target and its samples lie. Shared by both ways of
// moving values (narrow.cuh, wide.cuh).
#pragma once
#include <cuda_runtime.h>

#include "robocache/math.h"

// What benchmarks/ablations.py turns off to see what it is worth.
#ifndef ROBOCACHE_NARROW_BYTES
#define ROBOCACHE_NARROW_BYTES 64
#endif
#ifndef ROBOCACHE_ACCESS_BYTES
#define ROBOCACHE_ACCESS_BYTES 16
#endif
#ifndef ROBOCACHE_STREAMING_STORES
#define ROBOCACHE_STREAMING_STORES 1
#endif

namespace robocache {
namespace {

constexpr int kWarps = 4;             // a block: 16 blocks of 128 threads fill an SM's 2048
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 32;             // targets a tile: one a lane
constexpr int kFew = 8, kMany = 256;  // streams a launch; the parameters travel by value (kMany: 30.1 of 32 KiB)

// n / d for n below 2^31 by multiplication (Granlund & Montgomery, PLDI 1994): a 64-bit division is some 100
// instructions, as many as all of a row's arithmetic.
struct Divisor {
  uint32_t d, magic, shift;
  __host__ static Divisor of(int64_t d) {
    uint32_t shift = 0;
    while (shift < 31 && (int64_t(1) << shift) < d) ++shift;
    const uint64_t magic = ((uint64_t(1) << 32) * ((uint64_t(1) << shift) - uint64_t(d))) / uint64_t(d) + 1;
    return {uint32_t(d), uint32_t(magic), shift};
  }
  __device__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, magic) + n) >> shift; }
};
constexpr int64_t kDivisible = int64_t(1) << 31;

// A stream as the kernels take it.
struct Source : Stream {
  int64_t end;    // narrow.cuh: elements up to the end of its last row
  Divisor packs;  // wide.cuh: accesses a row; narrow.cuh: stores a row, of four values or one
  bool narrow;    // narrow.cuh or wide.cuh
  bool fours;     // narrow.cuh: four neighbours of an output row are one aligned store
  bool alone;     // narrow.cuh: the output has no other columns and no scale, so a tile is one piece of it
};

template <int Cap> struct Streams {
  Source s[Cap];
  Divisor count;    // how many
  int first;        // index of s[0] among the call's streams
  unsigned staged;  // bytes a warp has in shared memory for samples (narrow.cuh)
  unsigned shared;  // bytes a warp has in shared memory
  int64_t row0;     // this launch's first row
  Divisor length;   // targets of a dense episode; unset where `large`
  bool large;       // too many rows for `length`
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

// Where one lane is: a target, its episode, and the samples of the stream in that episode.
template <class Time> struct Cursor {
  int64_t row, batch;  // of the output; of the batch
  const Time* target;  // the episode's targets
  int64_t k, count;    // this one, and how many
  Time x;              // its time, on the stream's clock
  const Time* t;       // the episode's stamps
  int64_t n, base;     // samples; element offset of the first one's values
  Time begins, ends;   // its stamp, and the last one's (of four samples and more)

  // The warp's rows begin at row0; this lane's is `to`. The lanes must call it together.
  template <int Cap>
  __device__ Cursor(const Streams<Cap>& launch, const Source& s, const Targets& targets, int64_t row0, int64_t to)
      : row(to) {
    const Time* all = static_cast<const Time*>(targets.times);
    if (targets.offsets) {
      batch = episode_of(targets.offsets, targets.batch, row0);
      int64_t start = targets.offsets[batch], stop = targets.offsets[batch + 1];
      if (row >= stop) {  // in a later episode
        batch += locate<false>(targets.offsets + batch, targets.batch - batch, row, int64_t(1));
        start = targets.offsets[batch];
        stop = targets.offsets[batch + 1];
      }
      // Offsets a caller got wrong give wrong rows, never a wild read.
      const bool sane = start >= 0 && start <= row && stop > row && stop <= targets.rows;
      k = sane ? row - start : 0;
      count = sane ? stop - start : 1;
      target = all + (sane ? start : row);
    } else {
      batch = launch.large ? row / targets.length : int64_t(launch.length.quotient(uint32_t(row)));
      k = row - batch * targets.length;
      count = targets.length;
      target = all + batch * targets.batch_stride;
    }
    x = target[k];
    t = static_cast<const Time*>(s.times);
    if (s.offsets) {
      const int64_t low = s.offsets[batch], high = s.offsets[batch + 1];
      const bool sane = low >= 0 && low <= high && high <= s.length;
      n = sane ? high - low : 0;
      t += sane ? low : 0;
      base = (sane ? low : 0) * s.value_row_stride;
    } else {
      n = s.length;
      t += batch * s.time_batch_stride;
      base = batch * s.value_batch_stride;
    }
    begins = n >= 4 ? t[0] : Time(0);
    ends = n >= 4 ? t[n - 1] : Time(0);
    x = minus(x, time_value<Time>(s.shift));  // only now: the three loads are on their way together
  }
};

// The samples around a target, in 32-bit indices.
template <class Time> struct Near {
  const Time* t;
  int n, guess;  // guess: where a steady rate would have the last sample at or before the target
  int64_t base;
};

constexpr int64_t kReach = int64_t(1) << 30;

template <class Time> __device__ Near<Time> near(const Cursor<Time>& c, const Source& s) {
  const float part = __fdividef(float(minus(c.x, c.begins)), float(minus(c.ends, c.begins)));
  const float steps = part * float(c.n - 1);
  // NaN, infinities and what lies outside: the ends
  const int64_t guess = steps > 0.0f ? (steps < float(c.n - 1) ? int64_t(steps) : c.n - 1) : 0;
  if (c.n < kReach) return {c.t, int(c.n), int(guess), c.base};
  // An episode of a billion samples and more is searched here, and then seen through a window around the place.
  int64_t low = locate<false>(c.t, c.n, c.x, guess) - kReach / 2;
  low = low < 0 ? 0 : low > c.n - kReach ? c.n - kReach : low;
  return {c.t + low, int(kReach), int(kReach / 2), c.base + low * s.value_row_stride};
}

template <class A, class Time>
__device__ Stencil<A, int> stencil_of(const Source& s, const Cursor<Time>& c, const Near<Time>& d) {
  const auto bin = [&](Time* low, Time* high) {
    return bin_edges(c.target, c.count, c.k, time_value<Time>(s.shift), low, high);
  };
  int at;
  return stencil_at<A>(s.mode, d.t, d.n, c.x, time_value<Time>(s.max_gap), d.guess, bin, &at);
}

// ---- values ---------------------------------------------------------------------------------------------------------

// The 32 rows of the output that a warp is at.
struct Tile {
  char* data;          // the first one's first value
  bool* valid;         // the first one's flag for the stream
  const float* scale;
  unsigned width, streams;
  int rows;
  DType dtype;

  __device__ static Tile at(const Output& out, int64_t row, int64_t total, int stream) {
    const int bytes = out.dtype == DType::f64 ? 8 : out.dtype == DType::f32 ? 4 : out.dtype >= DType::e4m3 ? 1 : 2;
    return {static_cast<char*>(out.data) + row * out.width * bytes,
            out.valid + row * out.streams + stream,
            out.scale,
            unsigned(out.width),
            unsigned(out.streams),
            int(total - row < kRows ? total - row : kRows),
            out.dtype};
  }
};

// N values that one access moves (16 bytes at most).
template <class V, int N> struct alignas(sizeof(V) * N > 16 ? 16 : sizeof(V) * N) Pack {
  V v[N];
};

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

template <class O, int N, class A> __device__ void store_as(const Tile& tile, unsigned at, const A (&y)[N]) {
  Pack<O, N> p;
#pragma unroll
  for (int v = 0; v < N; ++v) store(p.v + v, y[v]);
  store_streaming(reinterpret_cast<Pack<O, N>*>(reinterpret_cast<O*>(tile.data) + at), p);
}

// N neighbours of the tile's row `row`, from `column` on. The dtype is one for the launch, so the branch is uniform.
template <int N, class A>
__device__ void store_values(const Tile& tile, unsigned row, unsigned column, const A (&y)[N]) {
  const unsigned at = row * tile.width + column;
  switch (tile.dtype) {
    case DType::f32: return store_as<float>(tile, at, y);
    case DType::bf16: return store_as<BFloat16>(tile, at, y);
    case DType::f16: return store_as<Half>(tile, at, y);
    case DType::f64: return store_as<double>(tile, at, y);
    default:
      Pack<uint8_t, N> p;
#pragma unroll
      for (int v = 0; v < N; ++v) {
        p.v[v] = encode8(tile.dtype, tile.scale ? float(y[v] / A(tile.scale[column + v])) : float(y[v]));
      }
      store_streaming(reinterpret_cast<Pack<uint8_t, N>*>(tile.data + at), p);
  }
}

// Mean of samples of which some share stamps: of each run only the last exists. Slow, and rare.
template <class A, class V, class Time>
__device__ A mean_of_last(const V* x, int64_t stride, const Time* t, int samples) {
  int first = last_of_run(t, samples, 0), count = 1;
  const A base = load(x + first * stride);
  A sum = A(0);
  for (int j = first + 1; j < samples; ++j) {
    if (j + 1 < samples && t[j + 1] == t[j]) continue;
    sum += A(load(x + j * stride)) - base;
    ++count;
  }
  return base + sum / A(count);
}

template <class Time> __device__ bool repeats_in(const Time* t, int samples) {
  bool repeats = false;
  for (int j = 1; j < samples; ++j) repeats |= t[j] == t[j - 1];
  return repeats;
}

}  // namespace
}  // namespace robocache
