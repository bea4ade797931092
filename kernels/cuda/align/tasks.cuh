// A warp's tile: which rows of which stream, and where each lane's target and its samples lie. Shared by both ways of
// moving values (narrow.cuh, wide.cuh).
#pragma once
#include <cuda_runtime.h>

#include "cuda/common/pack.cuh"
#include "cuda/common/ragged.cuh"
#include "robocache/align/ops.h"
#include "robocache/core/divisor.h"

// What benchmarks/ablations.py turns off to see what it is worth.
#ifndef ROBOCACHE_NARROW_BYTES
#define ROBOCACHE_NARROW_BYTES 64
#endif
#ifndef ROBOCACHE_ACCESS_BYTES
#define ROBOCACHE_ACCESS_BYTES 16
#endif
#ifndef ROBOCACHE_TILE_BYTES
#define ROBOCACHE_TILE_BYTES 2048
#endif
#ifndef ROBOCACHE_JAGGED_TILES
#define ROBOCACHE_JAGGED_TILES 4
#endif
#ifndef ROBOCACHE_DENSE_TILES
#define ROBOCACHE_DENSE_TILES 1
#endif
#ifndef ROBOCACHE_LEAN
#define ROBOCACHE_LEAN 1
#endif

namespace robocache::align {
namespace {

constexpr int kWarps = 4;  // a block: 16 blocks of 128 threads fill an SM's 2048
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 32;             // targets a tile, at most: one a lane
constexpr int kFewestRows = 2;        // of wide rows
constexpr int kFew = 8, kMany = 208;  // streams a launch; the parameters travel by value (kMany: 31.0 of 32 KiB)

// How a stream's values move.
enum class Route : uint8_t {
  packs,        // wide.cuh: several neighbours an access
  values,       // wide.cuh: one an access, whatever the other streams' are
  staged,       // narrow.cuh: through shared memory
  quaternions,  // narrow.cuh: slerp whose samples and results are one aligned access each
};

// A stream as the kernels take it.
struct Source : Stream {
  int64_t values_end;  // narrow.cuh: elements up to the end of its last row
  Divisor accesses;    // wide.cuh: accesses a row; narrow.cuh: stores a row, of four values or one
  int index;           // among the call's streams
  int counted;         // narrow.cuh: samples of an episode whose elements 32 bits count; -1 where rows are not packed
  Route route;
  bool by_four;     // narrow.cuh: four neighbours of an output row are one aligned store
  bool whole_rows;  // narrow.cuh: the output has no other columns and no scale, so a tile is one piece of it
};

// Lean kernels are for streams that share one mode, kOnly, and whose values leave in the dtype they came in. To take
// that for granted saves linear a third of the instructions and of the registers; the others need those of their own
// formula alone. kAnyMode: each stream has its own.
constexpr Mode kAnyMode = Mode(-1);
template <Mode kOnly> __device__ Mode mode_of(const Source& s) { return kOnly == kAnyMode ? s.mode : kOnly; }
// True where a launch may have streams of several routes.
template <Mode kOnly> constexpr bool kAnyRoute = kOnly == kAnyMode || kOnly == Mode::linear;
// True where a bin may be left to careful_tile().
template <Mode kOnly> constexpr bool kBins = kOnly == kAnyMode || kOnly == Mode::mean;
// The output's dtype where it is a constant, else void.
template <Mode kOnly, class V> using OutputOf = std::conditional_t<kOnly == kAnyMode, void, V>;

template <int Cap> struct Streams {
  Source s[Cap];
  Divisor count;      // how many
  unsigned staged;    // bytes a warp has in shared memory for samples (narrow.cuh)
  unsigned shared;    // bytes a warp has in shared memory
  unsigned rows;      // of a warp's tile: a power of two
  int tiles;          // a warp takes, one after the other
  int64_t row0;       // this launch's first row
  int64_t row_bytes;  // of the output
  Divisor length;     // targets of a dense episode; unset where `large`
  bool large;         // too many rows for `length`
};

// Where one lane is: a target, its episode, and the samples of the stream in that episode.
template <class Time> struct Cursor {
  int64_t row;         // of the output
  int batch;           // the episode
  const Time* target;  // the episode's targets
  int64_t k, count;    // this one, and how many
  Time x;              // its time, on the stream's clock
  const Time* t;       // the episode's stamps
  int64_t n, base;     // samples; element offset of the first one's values
  Time begins, ends;   // its stamp, and the last one's (of four samples and more)

  // This lane's row is `to`; jagged: `episode` is that of an earlier row.
  template <int Cap>
  __device__ Cursor(const Streams<Cap>& launch, const Source& s, const Targets& targets, int episode, int64_t to)
      : row(to), batch(episode) {
    const Time* all = static_cast<const Time*>(targets.times);
    if (targets.offsets) {
      int64_t start = targets.offsets[batch], stop = targets.offsets[batch + 1];
      if (row >= stop) {  // in a later episode
        batch += max(locate<false>(targets.offsets + batch, int(targets.batch) - batch, row, 1), 0);
        start = targets.offsets[batch];
        stop = targets.offsets[batch + 1];
      }
      // Offsets a caller got wrong give wrong rows, never a wild read.
      const bool sane = start >= 0 && start <= row && stop > row && stop <= targets.rows;
      k = sane ? row - start : 0;
      count = sane ? stop - start : 1;
      target = all + (sane ? start : row);
    } else {
      batch = launch.large ? int(row / targets.length) : int(launch.length.quotient(uint32_t(row)));
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
    x = unshifted(x, time_value<Time>(s.shift));  // only now: the three loads are on their way together
  }
};

// The samples around a target, in 32-bit indices.
template <class Time> struct Window {
  const Time* t;
  int n, guess;  // guess: where a steady rate would have the last sample at or before the target
  int64_t base;
};

constexpr int64_t kWindow = int64_t(1) << 30;

template <class Time> __device__ Window<Time> window_of(const Cursor<Time>& c, const Source& s) {
  const auto apart = [](Time from, Time to) {  // a guess may be wrong: before the first sample, over 2^63 apart
    if constexpr (std::is_same_v<Time, int64_t>) return float(int64_t(elapsed(from, to)));
    return float(elapsed(from, to));
  };
  const float part = __fdividef(apart(c.begins, c.x), apart(c.begins, c.ends));
  if (c.n < kWindow) {
    const int n = int(c.n), guess = __float2int_rz(part * float(n - 1));  // saturates; NaN gives 0
    return {c.t, n, max(min(guess, n - 1), 0), c.base};
  }
  // An episode of a billion samples and more is searched here, and then seen through a window around the place.
  const int64_t guess = max(min(__float2ll_rz(part * float(c.n - 1)), static_cast<long long>(c.n - 1)), 0ll);
  int64_t low = locate<false>(c.t, c.n, c.x, guess) - kWindow / 2;
  low = low < 0 ? 0 : low > c.n - kWindow ? c.n - kWindow : low;
  return {c.t + low, int(kWindow), int(kWindow / 2), c.base + low * s.value_row_stride};
}

template <Mode kOnly, class A, class Time>
__device__ Stencil<A, int> stencil_of(const Source& s, const Cursor<Time>& c, const Window<Time>& window) {
  const auto edges = [&](Time* low, Time* high) {
    return bin_edges(c.target, c.count, c.k, time_value<Time>(s.shift), low, high);
  };
  const int i = locate<false>(window.t, window.n, c.x, window.guess);
  return with_search(mode_of<kOnly>(s), [&]<class Search>(Search) __attribute__((always_inline)) {
    return Search::template at<A>(window.t, window.n, i, c.x, time_value<Time>(s.max_gap), edges);
  });
}

// ---- values ---------------------------------------------------------------------------------------------------------

// The rows of the output that a warp is at.
struct Tile {
  char* data;   // the first one's first value
  bool* valid;  // the first one's flag for the stream
  const float* scale;
  unsigned width, streams;
  int rows;
  DType dtype;
};

// Which rows those are, until the search is done: fewer registers than a Tile.
struct TileRows {
  const Output& out;
  int64_t row_bytes, row;
  int rows;

  __device__ Tile tile(const Source& s) const {
    return {static_cast<char*>(out.data) + row * row_bytes,
            out.valid + row * out.streams + s.index,
            out.scale,
            unsigned(out.width),
            unsigned(out.streams),
            rows,
            out.dtype};
  }
};

template <class O, int N, class A> __device__ void store_as(const Tile& tile, unsigned at, const A (&y)[N]) {
  store_streaming(reinterpret_cast<Pack<O, N>*>(reinterpret_cast<O*>(tile.data) + at), rounded<O>(y));
}

// N neighbours of the tile's row `row`, from `column` on, as O, or where that is void in the output's dtype: one for
// the launch, so the branch is uniform.
template <class O, int N, class A>
__device__ void store_values(const Tile& tile, unsigned row, unsigned column, const A (&y)[N]) {
  const unsigned at = row * tile.width + column;
  if constexpr (!std::is_void_v<O>) {
    store_as<O>(tile, at, y);
  } else {
    switch (tile.dtype) {
      case DType::f32: return store_as<float>(tile, at, y);
      case DType::bf16: return store_as<BFloat16>(tile, at, y);
      case DType::f16: return store_as<Half>(tile, at, y);
      case DType::f64: return store_as<double>(tile, at, y);
      default: Pack<uint8_t, N> p;
#pragma unroll
        for (int v = 0; v < N; ++v) {
          p.v[v] = encode8(tile.dtype, tile.scale ? y[v] / A(tile.scale[column + v]) : y[v]);
        }
        store_streaming(reinterpret_cast<Pack<uint8_t, N>*>(tile.data + at), p);
    }
  }
}

template <class Time> __device__ bool repeats_in(const Time* t, int samples) {
  bool repeats = false;
  for (int j = 1; j < samples; ++j) repeats |= t[j] == t[j - 1];
  return repeats;
}

// True where a bin's mean is left to careful_tile().
template <class Time> __device__ bool needs_care(const Source& s, const Time* t, int samples) {
  return s.mode == Mode::circular_mean || samples > kSummed || repeats_in(t, samples);
}

// A circular mean is an angle but for its bins, which are all left to careful_tile().
template <Mode kOnly> __device__ Mode mode_but_for_bins(const Source& s) {
  const Mode mode = mode_of<kOnly>(s);
  return mode == Mode::circular_mean ? Mode::angle : mode;
}

}  // namespace
}  // namespace robocache::align
