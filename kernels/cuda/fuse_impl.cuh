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
#include "fuse.h"
#include "general_kernel.cuh"
#include "light_kernel.cuh"

namespace robocache {
namespace {

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
