// Aligns and fuses a batch of streams on the GPU.
//
// Work:    a warp takes a tile: consecutive output rows (targets; episode borders do not matter) of one stream, 32 of
//          them, or fewer where they are wide, so that a small call has warps enough for the card. A block is 4 warps
//          of one stream; the blocks of one place's streams lie side by side, so that their pieces of a row meet in L2.
//          Jagged batches are balanced by that: a tile's work does not depend on episode lengths. There the block looks
//          for its first row's episode together; else warps never wait for each other.
// Step 1:  each lane finds bracket and weight of its own target. The search starts where a steady rate would put the
//          stamp, so it takes a few loads, not log2(n).
// Step 2:  the values, in one of two ways: wide.cuh where rows are wide or 16-byte aligned, narrow.cuh else and for
//          quaternions.
// Shared:  at most 8.1 KiB a warp, 32.3 KiB a block of 4, dynamic, no opt-in; the layouts are in those two files.
// Bytes:   reads two samples (D values) and the bracket's stamps a target, writes D values and one valid flag. Two
//          neighbouring targets share samples through L1/L2.
//
// One kernel, instantiated for launches whose streams share a value dtype, again for those that share a mode too, and,
// once, for any mixture.
#pragma once
#include <algorithm>
#include <type_traits>

#include "careful.cuh"
#include "cuda/common/launch.cuh"
#include "fuse.h"
#include "narrow.cuh"
#include "wide.cuh"

namespace robocache::align {
namespace {

// Blocks an SM, as many as the compiler can serve without spilling: 128 threads x 12 leave 40 registers each, x 10 48,
// x 9 56, x 8 64, x 7 72, x 6 80, x 5 96.
template <class V, int VEC, Mode kOnly> constexpr int blocks_an_sm() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if (kOnly == Mode::linear) return 10;  // with 12, ptxas 13.0 spills a register of bf16 and f16 for sm_80
#else
  if (kOnly == Mode::linear) return VEC == 0 ? 12 : 10;
#endif
  if (kOnly == Mode::mean) return 7;
  if (kOnly == Mode::cubic || kOnly == Mode::angle) return 9;
  if (kOnly != kAnyMode) return 12;
  if (std::is_same_v<V, Any> || sizeof(typename Accumulator<V>::type) == 8) return 5;
  if (std::is_same_v<V, AnyFloat>) return 6;
  return VEC == 0 ? 8 : 7;
}

constexpr int kNarrowBytes =
    ROBOCACHE_NARROW_BYTES;             // a row's, at most: two sectors, or one where two values are an access
constexpr int64_t kManyRows = 1 << 23;  // 262,144 tiles: ten times the warps of a large card
constexpr int kStaged = 4096;  // bytes of samples a warp: with the output tile, 24 warps fit on an SM at the worst

// VEC: values an access in wide.cuh, of streams whose route is packs; 0: all streams go by narrow.cuh. kMode: the one
// that all streams share, or kAnyMode, see tasks.cuh; as a number, which nvcc's host stubs can name.
template <class Time, class V, int VEC, int Cap, int kMode>
__global__ void __launch_bounds__(kThreads, (blocks_an_sm<V, VEC, Mode(kMode)>()))
    fuse_kernel(const __grid_constant__ Streams<Cap> launch, const __grid_constant__ Targets targets,
                const __grid_constant__ Output out) {
  constexpr Mode kOnly = Mode(kMode);
  await_earlier_kernels();
  extern __shared__ uint4 block_shared[];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Several where search is a large part, and registers are spare.
  const int tiles = VEC == 0 && kOnly == Mode::linear ? launch.tiles : 1;
  const uint32_t place = launch.count.quotient(blockIdx.x);
  const int m = int(blockIdx.x - place * launch.count.d);
  const Source& s = launch.s[m];
  char* shared = reinterpret_cast<char*>(block_shared) + warp * launch.shared;
  const int64_t begin = launch.row0 + int64_t(place) * (kWarps * tiles * launch.rows);
  int episode = targets.offsets ? episode_of<kThreads>(targets.offsets, int(targets.batch), begin) : 0;
  int64_t row0 = begin + warp * tiles * launch.rows;
  for (int tile = 0; tile < tiles; ++tile, row0 += launch.rows) {
    const int64_t left = targets.rows - row0;
    if (left <= 0) return;
    const int rows = left < launch.rows ? int(left) : int(launch.rows);
    // Lanes beyond the tile's rows do as another one does.
    const int mine = int(lane & (launch.rows - 1));
    const Cursor<Time> c(launch, s, targets, episode, row0 + (mine < rows ? mine : rows - 1));
    episode = __shfl_sync(~0u, c.batch, 0);
    const TileRows here{out, launch.row_bytes, row0, rows};
    bool care = false;
    const auto run = [&]<class W>(W) __attribute__((always_inline)) {
      if constexpr (VEC == 0 || kAnyRoute<kOnly>) {
        if (VEC == 0 || s.route >= Route::staged) {
          care = narrow_tile<kOnly, W>(s, c, here, shared, launch.staged);
          return;
        }
      }
      if constexpr (VEC > 1 && kAnyRoute<kOnly>) {
        if (s.route == Route::values) {
          care = wide_tile<kOnly, W, 1>(s, c, here, shared);
          return;
        }
      }
      if constexpr (VEC > 0) care = wide_tile<kOnly, W, VEC>(s, c, here, shared);
    };
    if constexpr (kMixture<V>) {
      switch (s.dtype) {
        case DType::f64:
          if constexpr (std::is_same_v<V, Any>) run(double());
          break;
        case DType::f32: run(float()); break;
        case DType::f16: run(Half()); break;
        default: run(BFloat16());
      }
    } else {
      run(V());
    }
    if constexpr (kBins<kOnly>) {
      if (__any_sync(~0u, care)) careful_tile<kOnly, V, Time>(launch, targets, out);
    }
    __syncwarp();  // before the next tile takes the shared memory
  }
}

int64_t bytes_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : dtype >= DType::e4m3 ? 1 : 2;
}

// True where `vec` neighbours are one aligned access, of the stream's rows or of its columns in the output.
bool aligned_in(const Stream& s, int64_t vec) {
  return s.dim % vec == 0 && s.value_row_stride % vec == 0 && s.value_batch_stride % vec == 0 &&
         reinterpret_cast<uintptr_t>(s.values) % uintptr_t(vec * bytes_of(s.dtype)) == 0;
}
bool aligned_out(const Stream& s, const Output& out, int64_t vec) {
  return s.dim % vec == 0 && s.column % vec == 0 && out.width % vec == 0 &&
         reinterpret_cast<uintptr_t>(out.data) % uintptr_t(std::min<int64_t>(vec * bytes_of(out.dtype), 16)) == 0;
}
bool aligned(const Stream& s, const Output& out, int64_t vec) {
  return vec * bytes_of(s.dtype) <= ROBOCACHE_ACCESS_BYTES && aligned_in(s, vec) && aligned_out(s, out, vec);
}

// Bytes that a narrow tile's samples take at the stream's mean rate, some more at either end included; 0 where that is
// too much. What shared memory does not get, L1 has.
int64_t staging_bytes(const Stream& s, const Targets& targets) {
  const double samples = double(s.length) * double(s.offsets ? 1 : targets.batch);
  const double bytes = (samples / double(targets.rows) * (kRows + 1) + 12) * double(s.dim * bytes_of(s.dtype)) + 32;
  return bytes <= kStaged ? int64_t(bytes) : 0;
}

// Narrow: packed rows that accesses of 16 bytes do not fit, or only a few of two values, unless their samples take too
// much room.
Route route_of(const Stream& s, const Targets& targets, const Output& out) {
  if (s.mode == Mode::slerp && aligned_in(s, 4) && aligned_out(s, out, 4)) return Route::quaternions;
  if (s.mode == Mode::slerp || s.mode == Mode::pose) return Route::staged;
  const int64_t bytes = bytes_of(s.dtype), row = s.dim * bytes;
  const bool pairs = aligned(s, out, 2), packed = s.value_row_stride == s.dim && !aligned_in(s, 16 / bytes);
  if (row > 0 && row <= kNarrowBytes / (pairs ? 2 : 1) && packed && staging_bytes(s, targets) > 0) return Route::staged;
  return pairs ? Route::packs : Route::values;
}

template <class Time, class V, int VEC, int Cap, Mode kOnly = kAnyMode>
void launch(Streams<Cap> p, const Targets& targets, const Output& out, cudaStream_t queue) {
  const int count = int(p.count.d);
  constexpr bool kLinear = kOnly == Mode::linear;
  if constexpr (VEC > 1 && kAnyRoute<kOnly>) {
    // The widest access that all wide streams allow, but those that go value by value.
    bool narrow = true, fits = true;
    for (int m = 0; m < count; ++m) {
      const Source& s = p.s[m];
      narrow = narrow && s.route >= Route::staged;
      fits = fits && (s.route != Route::packs || aligned(s, out, VEC));
    }
    if (narrow) return launch<Time, V, 0, Cap, kOnly>(p, targets, out, queue);
    if constexpr (VEC > 2) {
      if (!fits) return launch<Time, V, 2, Cap, kOnly>(p, targets, out, queue);
    }
  }
  int64_t staged = 0, tile = 0, wide = 0, row = 0;
  for (int m = 0; m < count; ++m) {
    Source& s = p.s[m];
    const int64_t wider = s.dtype == DType::f64 ? 8 : 4;
    if (s.route == Route::staged) {
      s.whole_rows = out.width == s.dim && !out.scale && reinterpret_cast<uintptr_t>(out.data) % 16 == 0;
      s.by_four = aligned_out(s, out, 4) && !s.whole_rows;
      s.accesses = Divisor::of(s.by_four ? s.dim / 4 : s.dim);
      const bool packed = s.value_row_stride == s.dim && s.length > 0;
      s.counted = packed ? int((kDivisible - 1) / std::max<int64_t>(s.dim, 1)) : -1;
      s.values_end =
          (s.offsets ? 0 : (targets.batch - 1) * s.value_batch_stride) + (s.length - 1) * s.value_row_stride + s.dim;
      staged = std::max(staged, staging_bytes(s, targets));
      tile = std::max(tile, kRows * s.dim * (kLinear ? bytes_of(s.dtype) : wider));
    } else if (s.route != Route::quaternions) {
      s.accesses = Divisor::of(std::max<int64_t>(s.dim / (s.route == Route::values ? 1 : std::max(VEC, 1)), 1));
      const int64_t entries = kRows * (wider == 8 ? sizeof(Entry<double, double>) : sizeof(Entry<float, float>));
      const int64_t outer = kRows * (wider == 8 ? sizeof(Outer<double, double>) : sizeof(Outer<float, float>));
      wide = std::max(wide, entries + (s.mode == Mode::cubic ? outer : 0));
      row = std::max(row, s.dim * bytes_of(s.dtype));
    }
  }
  p.rows = kRows;  // the other kernels spend more on a row's stencil, so that fewer rows pay less
  while (tile == 0 && p.rows > kFewestRows && p.rows * row > (kLinear ? 1 : 4) * ROBOCACHE_TILE_BYTES) p.rows /= 2;
  p.staged = unsigned(staged + 15) / 16 * 16 + kOverread;
  p.shared = unsigned(std::max(p.staged + tile, wide) + 15) / 16 * 16;
  p.row_bytes = out.width * bytes_of(out.dtype);
  p.large = targets.offsets || targets.rows >= kDivisible;
  if (!p.large) p.length = Divisor::of(targets.length);
  // Blocks are numbered in 31 bits: 2^38 rows of one narrow stream, more than fits; the loop is for the principle.
  // Where episodes have to be searched, a warp goes on to the next tiles, if there are enough for the whole card.
  const bool many = VEC == 0 && kLinear && targets.rows >= kManyRows;
  p.tiles = !many ? 1 : targets.offsets ? ROBOCACHE_JAGGED_TILES : ROBOCACHE_DENSE_TILES;
  const int64_t rows = kWarps * p.tiles * p.rows, blocks = (targets.rows + rows - 1) / rows;  // of one stream
  const int64_t together = (kDivisible - 1) / count;
  for (int64_t first = 0; first < blocks; first += together) {
    p.row0 = first * rows;
    launch_overlapping(fuse_kernel<Time, V, VEC, Cap, int(kOnly)>, unsigned(std::min(together, blocks - first) * count),
                       kThreads, kWarps * p.shared, queue, p, targets, out);
  }
}

// The streams [first, first + count) as a launch takes them.
template <int Cap>
Streams<Cap> streams_of(const Stream* streams, int first, int count, const Targets& targets, const Output& out) {
  Streams<Cap> p{};
  p.count = Divisor::of(count);
  for (int m = 0; m < count; ++m) {
    static_cast<Stream&>(p.s[m]) = streams[first + m];
    p.s[m].index = first + m;
    p.s[m].route = route_of(p.s[m], targets, out);
  }
  return p;
}

template <class Time>
void fuse_mixture(const Stream* streams, int first, int count, const Targets& targets, const Output& out,
                  cudaStream_t queue) {
  const auto is_double = [](const Stream& s) { return s.dtype == DType::f64; };
  const Streams<kMany> p = streams_of<kMany>(streams, first, count, targets, out);
  if (std::any_of(streams + first, streams + first + count, is_double)) {
    return launch<Time, Any, 1>(p, targets, out, queue);
  }
  launch<Time, AnyFloat, 1>(p, targets, out, queue);
}

}  // namespace

// Streams of values V alone, at most kFew of them. Each V of a Time is instantiated in a file of its own, so that they
// compile side by side.
template <class Time, class V>
void fuse_same(const Stream* streams, const Targets& targets, const Output& out, cudaStream_t queue) {
  constexpr int kVec = 16 / int(sizeof(V));  // values an access of 16 bytes
  const int count = int(out.streams);
  const Streams<kFew> p = streams_of<kFew>(streams, 0, count, targets, out);
  if constexpr (std::is_same_v<Time, int64_t> && sizeof(V) <= 4 && ROBOCACHE_LEAN) {
    const Mode mode = streams[0].mode;
    bool one = out.dtype == streams[0].dtype, wide = true;
    for (int m = 0; m < count; ++m) {
      one = one && streams[m].mode == mode;
      wide = wide && p.s[m].route == Route::packs && aligned(streams[m], out, kVec);
    }
    if (one && mode == Mode::linear) return launch<Time, V, kVec, kFew, Mode::linear>(p, targets, out, queue);
    if constexpr (!std::is_same_v<V, Half>) {  // float16 is rare: it takes the kernel of any mode
      if (one && mode == Mode::slerp) return launch<Time, V, 0, kFew, Mode::slerp>(p, targets, out, queue);
      if (one && mode == Mode::pose) return launch<Time, V, 0, kFew, Mode::pose>(p, targets, out, queue);
      if (one && wide) {
        if (mode == Mode::cubic) return launch<Time, V, kVec, kFew, Mode::cubic>(p, targets, out, queue);
        if (mode == Mode::mean) return launch<Time, V, kVec, kFew, Mode::mean>(p, targets, out, queue);
        if (mode == Mode::angle) return launch<Time, V, kVec, kFew, Mode::angle>(p, targets, out, queue);
      }
    }
  }
  launch<Time, V, kVec>(p, targets, out, queue);
}

// One time dtype's kernels: those of mixtures, and fuse_same where there is one. To spare half of the build, float32
// stamps (which resolve too little for real clocks) and 16-bit values under float64 stamps take those of mixtures, and
// mixtures of few streams the kernels that have room for many.
template <class Time>
void fuse_as(const Stream* streams, const Targets& targets, const Output& out, cudaStream_t queue) {
  if (targets.rows == 0) return;
  const int count = int(out.streams);
  const DType dtype = streams[0].dtype;
  const bool same =
      count <= kFew && std::all_of(streams, streams + count, [&](const Stream& s) { return s.dtype == dtype; });
  if constexpr (sizeof(Time) == 8) {
    if (same && dtype == DType::f32) return fuse_same<Time, float>(streams, targets, out, queue);
    if (same && dtype == DType::f64) return fuse_same<Time, double>(streams, targets, out, queue);
  }
  if constexpr (std::is_same_v<Time, int64_t>) {
    if (same && dtype == DType::bf16) return fuse_same<Time, BFloat16>(streams, targets, out, queue);
    if (same && dtype == DType::f16) return fuse_same<Time, Half>(streams, targets, out, queue);
  }
  for (int first = 0; first < count; first += kMany) {
    fuse_mixture<Time>(streams, first, std::min(count - first, kMany), targets, out, queue);
  }
}

}  // namespace robocache::align
