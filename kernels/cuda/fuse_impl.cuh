// Aligns and fuses a batch of streams on the GPU.
//
// Work:    a warp takes a tile: 32 consecutive output rows (targets; episode borders do not matter) of one stream. The
//          tiles of one place's streams lie side by side, so that their pieces of a row meet in L2. Jagged batches are
//          balanced by that: a tile's work does not depend on episode lengths. Warps never wait for each other.
// Step 1:  each lane finds bracket and weight of its own target. The search starts where a steady rate would put the
//          stamp, so it takes a few loads, not log2(n).
// Step 2:  the values, in one of two ways: wide.cuh where rows are wide or 16-byte aligned, narrow.cuh else and for
//          quaternions.
// Shared:  at most 8 KiB a warp, 32 KiB a block of 4, dynamic, no opt-in; the layouts are in those two files.
// Bytes:   reads two samples (D values) and the bracket's stamps a target, writes D values and one valid flag. Two
//          neighbouring targets share samples through L1/L2.
//
// One kernel, instantiated for launches whose streams share a value dtype and, once, for any mixture.
#pragma once
#include <algorithm>
#include <type_traits>

#include "fuse.h"
#include "narrow.cuh"
#include "wide.cuh"

namespace robocache {
namespace {

struct AnyFloat {};  // float32, float16 and bfloat16 streams side by side
struct Any {};       // and float64

template <class V> constexpr bool kMixture = std::is_same_v<V, Any> || std::is_same_v<V, AnyFloat>;

// Blocks an SM: 128 threads x 8 leave 64 registers each, x 7 72, x 6 80, x 5 96, x 4 128; what the compiler needs without
// spilling.
template <class V, int VEC>
constexpr int kBlocks = std::is_same_v<V, Any>                          ? 4
                        : sizeof(typename Accumulator<V>::type) == 8 ? 5
                        : std::is_same_v<V, AnyFloat>                ? 6
                        : VEC                                        ? 7
                                                                     : 8;

constexpr int kNarrowBytes = ROBOCACHE_NARROW_BYTES;  // a row's, at most: two sectors; wider ones need no help
constexpr int kStaged = 4096;  // bytes of samples a warp: with the output tile, 24 warps fit on an SM at the worst

template <class V, int VEC, class Time, int Cap>
__device__ void run(const Streams<Cap>& launch, const Source& s, int stream, int64_t row0, const Targets& targets,
                    const Output& out, char* shared) {
  const int left = targets.rows - row0 < kRows ? int(targets.rows - row0) : kRows, lane = threadIdx.x % 32;
  const Cursor<Time> c(launch, s, targets, row0, row0 + (lane < left ? lane : left - 1));
  if (VEC == 0 || s.narrow) return narrow_tile<V>(s, c, out, row0, targets.rows, stream, shared, launch.staged);
  if constexpr (VEC > 0) wide_tile<V, VEC>(s, c, out, row0, targets.rows, stream, shared);
}

// VEC: values an access in wide.cuh; 0: all streams are narrow.
template <class Time, class V, int VEC, int Cap>
__global__ void __launch_bounds__(kThreads, kBlocks<V, VEC>)
    fuse_kernel(const __grid_constant__ Streams<Cap> launch, const Targets targets, const Output out) {
  extern __shared__ uint4 block_shared[];
  char* shared = reinterpret_cast<char*>(block_shared) + threadIdx.x / 32 * launch.shared;
  const uint32_t id = blockIdx.x * kWarps + threadIdx.x / 32, place = launch.count.quotient(id);
  const int64_t row0 = launch.row0 + int64_t(place) * kRows;
  if (row0 >= targets.rows) return;
  const int m = int(id - place * launch.count.d), stream = launch.first + m;
  const Source& s = launch.s[m];
  if constexpr (kMixture<V>) {
    switch (s.dtype) {
      case DType::f64:
        if constexpr (std::is_same_v<V, Any>) run<double, VEC, Time>(launch, s, stream, row0, targets, out, shared);
        return;
      case DType::f32: return run<float, VEC, Time>(launch, s, stream, row0, targets, out, shared);
      case DType::f16: return run<Half, VEC, Time>(launch, s, stream, row0, targets, out, shared);
      default: return run<BFloat16, VEC, Time>(launch, s, stream, row0, targets, out, shared);
    }
  } else {
    run<V, VEC, Time>(launch, s, stream, row0, targets, out, shared);
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

bool is_narrow(const Stream& s) {
  if (s.mode == Mode::slerp || s.mode == Mode::pose) return true;
  const int64_t bytes = bytes_of(s.dtype);
  return s.dim > 0 && s.dim * bytes <= kNarrowBytes && s.value_row_stride == s.dim && !aligned_in(s, 16 / bytes);
}

template <class Time, class V, int VEC, int Cap>
void launch(Streams<Cap> p, const Targets& targets, const Output& out, cudaStream_t queue) {
  const int count = int(p.count.d);
  if constexpr (VEC > 0) {  // the widest access that all wide streams and the output allow, and at last value by value
    using Mixture = std::conditional_t<std::is_same_v<V, double>, Any, AnyFloat>;
    using Next = std::conditional_t<VEC == 2, Mixture, V>;
    constexpr int kNext = VEC == 2 ? 1 : 2;
    bool narrow = true;
    for (int m = 0; m < count; ++m) {
      const Source& s = p.s[m];
      narrow = narrow && s.narrow;
      if constexpr (VEC > 1) {
        const bool wide_enough = VEC * bytes_of(s.dtype) <= ROBOCACHE_ACCESS_BYTES;
        if (!s.narrow && !(wide_enough && aligned_in(s, VEC) && aligned_out(s, out, VEC))) {
          return launch<Time, Next, kNext>(p, targets, out, queue);
        }
      }
    }
    if constexpr (!kMixture<V>) {
      if (narrow) return launch<Time, V, 0>(p, targets, out, queue);
    }
  }
  int64_t staged = 0, tile = 0, wide = 0;
  for (int m = 0; m < count; ++m) {
    Source& s = p.s[m];
    const int64_t wider = s.dtype == DType::f64 ? 8 : 4;
    if (s.narrow) {
      s.alone = out.width == s.dim && !out.scale &&
                reinterpret_cast<uintptr_t>(out.data) % uintptr_t(std::min<int64_t>(4 * bytes_of(out.dtype), 16)) == 0;
      s.fours = aligned_out(s, out, 4) && !s.alone;
      s.packs = Divisor::of(s.fours ? s.dim / 4 : s.dim);
      s.end = (s.offsets ? 0 : (targets.batch - 1) * s.value_batch_stride) + (s.length - 1) * s.value_row_stride + s.dim;
      staged = std::max(staged, std::min<int64_t>(kStaged, 4 * kRows * s.dim * bytes_of(s.dtype) + 32));
      tile = std::max(tile, kRows * s.dim * wider);
    } else {
      s.packs = Divisor::of(std::max<int64_t>(s.dim / std::max(VEC, 1), 1));
      const int64_t entries = kRows * (wider == 8 ? sizeof(Entry<double, double>) : sizeof(Entry<float, float>));
      const int64_t outer = kRows * (wider == 8 ? sizeof(Outer<double, double>) : sizeof(Outer<float, float>));
      wide = std::max(wide, entries + (s.mode == Mode::cubic ? outer : 0));
    }
  }
  p.staged = unsigned(staged + 15) / 16 * 16;
  p.shared = unsigned(std::max(p.staged + tile, wide) + 15) / 16 * 16;
  p.large = targets.offsets || targets.rows >= kDivisible;
  if (!p.large) p.length = Divisor::of(targets.length);
  // Warps are numbered in 31 bits: 2^36 rows of one stream, more than fits; the loop is for the principle.
  const int64_t tiles = (targets.rows + kRows - 1) / kRows, most = (kDivisible - kWarps) / count;
  for (int64_t tile0 = 0; tile0 < tiles; tile0 += most) {
    p.row0 = tile0 * kRows;
    const int64_t warps = std::min(most, tiles - tile0) * count;
    fuse_kernel<Time, V, VEC, Cap>
        <<<unsigned((warps + kWarps - 1) / kWarps), kThreads, kWarps * p.shared, queue>>>(p, targets, out);
  }
}

template <class Time, int Cap>
void launch_streams(const Stream* streams, int first, int count, const Targets& targets, const Output& out,
                    cudaStream_t queue) {
  Streams<Cap> p{};
  p.count = Divisor::of(count);
  p.first = first;
  const DType dtype = streams[first].dtype;
  bool same = true, wide = false;
  for (int m = 0; m < count; ++m) {
    static_cast<Stream&>(p.s[m]) = streams[first + m];
    p.s[m].narrow = is_narrow(p.s[m]);
    same = same && p.s[m].dtype == dtype;
    wide = wide || p.s[m].dtype == DType::f64;
  }
  // To spare half of the build, float32 stamps (which resolve too little for real clocks) and 16-bit values under float64
  // stamps take the kernels of mixtures.
  if constexpr (Cap == kFew && sizeof(Time) == 8) {
    if (same && dtype == DType::f32) return launch<Time, float, 4>(p, targets, out, queue);
    if (same && dtype == DType::f64) return launch<Time, double, 2>(p, targets, out, queue);
  }
  if constexpr (Cap == kFew && std::is_same_v<Time, int64_t>) {
    if (same && dtype == DType::bf16) return launch<Time, BFloat16, 8>(p, targets, out, queue);
    if (same && dtype == DType::f16) return launch<Time, Half, 8>(p, targets, out, queue);
  }
  return wide ? launch<Time, Any, 1>(p, targets, out, queue) : launch<Time, AnyFloat, 1>(p, targets, out, queue);
}

}  // namespace

// One time dtype's kernels; fuse_*.cu instantiate one each, so that they compile side by side.
template <class Time>
void fuse_as(const Stream* streams, const Targets& targets, const Output& out, cudaStream_t queue) {
  if (targets.rows == 0) return;
  const int count = int(out.streams);
  if (count <= kFew) return launch_streams<Time, kFew>(streams, 0, count, targets, out, queue);
  for (int first = 0; first < count; first += kMany) {
    launch_streams<Time, kMany>(streams, first, std::min(count - first, kMany), targets, out, queue);
  }
}

}  // namespace robocache
