// Kernels that get ready while the one before them on their stream is still at work (programmatic dependent launch, of
// compute capability 9.0 and later): half a microsecond of the three that a small call takes.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <utility>

namespace robocache {
namespace {

// First of all in a kernel that launch_overlapping() starts: waits until everything before it on the stream is done and
// its writes are seen, then lets the next such kernel get ready. In that order, or blocks that only wait would take the
// places of blocks that work.
__device__ void await_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Whether the kernel's code for the current device waits by itself: it does not where it was compiled, by setup.py or by
// the driver, from intermediate code for older cards. Asked once a kernel and device.
template <class Kernel> bool waits_by_itself(Kernel* kernel) {
  constexpr int kDevices = 64;
  static std::atomic<signed char> known[kDevices];  // 0: not asked yet, 1: yes, -1: no
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
  signed char answer = known[device].load(std::memory_order_relaxed);
  if (answer == 0) {
    cudaFuncAttributes about{};
    const bool found = cudaFuncGetAttributes(&about, kernel) == cudaSuccess;
    answer = found && about.ptxVersion >= 90 && about.binaryVersion >= 90 ? 1 : -1;
    known[device].store(answer, std::memory_order_relaxed);
  }
  return answer > 0;
}

// kernel<<<blocks, threads, shared, queue>>>(arguments...), which may overlap with the end of what is before it.
template <class... Parameters, class... Arguments>
void launch_overlapping(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared,
                        cudaStream_t queue, Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = queue;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = waits_by_itself(kernel) ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace
}  // namespace robocache
