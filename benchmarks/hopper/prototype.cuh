// What the prototypes of this folder share: the shipped kernels' structs and device functions, so that each computes
// the same function with the same arithmetic, and how a call of one linear stream is described to them.
#pragma once
#include "cuda/align/fuse_impl.cuh"

namespace robocache::align {

// A call of one linear stream with int64 stamps, as benchmarks/hopper.py fills it (ctypes): fields of 8 bytes.
struct Call {
  const void* values;             // [batch, length, dim], or jagged [length, dim]
  const void* times;              // [batch, length] (or [length] for all: time_stride 0), or jagged [length]
  const int64_t* offsets;         // jagged [batch + 1], else null
  const void* targets;            // [batch, target_length] (or for all: target_stride 0), or jagged [rows]
  const int64_t* target_offsets;  // jagged [batch + 1], else null
  void* out;                      // [rows, dim]
  bool* valid;                    // [rows]
  int64_t batch, length, dim, time_stride, target_length, target_stride, rows;
  int64_t bf16;  // else float32
  cudaStream_t queue;
};

namespace {

Targets targets_of(const Call& c) {
  return {c.targets, c.target_offsets, c.target_stride, c.target_length, c.batch, c.rows};
}

Output output_of(const Call& c) {
  return {c.out, c.valid, nullptr, c.dim, 1, c.bf16 ? DType::bf16 : DType::f32};
}

Streams<kFew> streams_of(const Call& c) {
  Streams<kFew> p{};
  Source& s = p.s[0];
  s.values = c.values;
  s.times = c.times;
  s.offsets = c.offsets;
  s.value_batch_stride = c.length * c.dim;
  s.value_row_stride = c.dim;
  s.time_batch_stride = c.time_stride;
  s.length = c.length;
  s.dim = c.dim;
  s.max_gap.i64 = kLastTime;
  s.dtype = c.bf16 ? DType::bf16 : DType::f32;
  s.mode = Mode::linear;
  s.whole_rows = true;
  s.accesses = Divisor::of(c.dim);
  s.counted = int((kDivisible - 1) / c.dim);
  s.values_end = (c.offsets ? c.length : c.batch * c.length) * c.dim;
  p.count = Divisor::of(1);
  p.rows = kRows;
  p.row_bytes = c.dim * (c.bf16 ? 2 : 4);
  p.large = c.target_offsets || c.rows >= kDivisible;
  if (!p.large) p.length = Divisor::of(c.target_length);
  return p;
}

int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

__device__ unsigned shared_address(const void* at) { return unsigned(__cvta_generic_to_shared(at)); }

__device__ void barrier_init(uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ void barrier_expect(uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
__device__ void barrier_wait(uint64_t* barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// Global to shared and back by the copy engine: addresses and sizes are multiples of 16 bytes.
__device__ void bulk_load(void* to, const void* from, unsigned bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
__device__ void bulk_store(void* to, const void* from, unsigned bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
               "r"(bytes)
               : "memory");
}
__device__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kPending> __device__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// Before the copy engine reads what ordinary stores wrote.
__device__ void fence_for_bulk() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace
}  // namespace robocache::align
