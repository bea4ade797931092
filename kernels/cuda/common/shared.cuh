// Samples on their way to shared memory by 16-byte asynchronous copies (cp.async), a warp's own.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace robocache {
namespace {

// Samples in shared memory: `size` elements, from `skip` bytes on. `delta`: where this lane's episode begins among them
// (or would), as far as 32 bits reach.
struct Span {
  int size;  // 0: nothing is copied
  unsigned skip;
  int delta;
};
constexpr int kFar = -int(~0u >> 1) - 1;

// Starts copying [low, high) into shared memory, in aligned blocks of 16 bytes; an empty span where it does not fit.
// The first and the last block may hold neighbours' values, too, but never what lies behind the stream's `end`.
template <class V>
__device__ Span begin_copy(const V* values, int64_t base, int64_t end, int64_t low, int64_t high, char* shared,
                           unsigned room) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(values + low);
  const unsigned skip = unsigned(begin) & 15;
  if (high <= low || high - low > int64_t(room / sizeof(V))) return {0, 0, kFar};
  const unsigned bytes = unsigned(high - low) * unsigned(sizeof(V)) + skip, whole = (bytes + 15) & ~15u;
  if (bytes > room) return {0, 0, kFar};
  const bool inside = (end - low) * int64_t(sizeof(V)) + skip >= whole;
  const unsigned stop = inside ? whole : bytes & ~15u;
  const unsigned to = unsigned(__cvta_generic_to_shared(shared)), lane = threadIdx.x % 32;
  const char* from = reinterpret_cast<const char*>(begin - skip);
#pragma unroll 1
  for (unsigned i = lane * 16; i < stop; i += 512) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i) : "memory");
  }
  if (!inside) {  // the stream's last values
    const unsigned i = stop + lane * unsigned(sizeof(V));
    if (i < bytes) *reinterpret_cast<V*>(shared + i) = *reinterpret_cast<const V*>(from + i);
  }
  const int64_t delta = base - low;
  return {int(high - low), skip, delta == int(delta) ? int(delta) : kFar};
}
__device__ void end_copy() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
}

}  // namespace
}  // namespace robocache
