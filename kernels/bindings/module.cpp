// robocache._C: loading it registers the operators (the libraries of the other files); it holds the short ways to them.
#include "bindings/python.h"
#include "cpu/isa.h"
#ifdef ROBOCACHE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace robocache {

void def_align(pybind11::module_& module);

}  // namespace robocache

TORCH_LIBRARY(robocache, m) {
  m.def("instruction_set() -> str", +[] { return std::string(robocache::cpu::isa_name()); });
}

PYBIND11_MODULE(_C, module) {
  robocache::def_align(module);
#ifdef ROBOCACHE_CUDA
  module.def("limit_l2_fetch", [](int64_t bytes, int device) {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    size_t before = 0;
    C10_CUDA_CHECK(cudaDeviceGetLimit(&before, cudaLimitMaxL2FetchGranularity));
    C10_CUDA_CHECK(cudaDeviceSetLimit(cudaLimitMaxL2FetchGranularity, size_t(bytes)));
    return int64_t(before);
  });
#endif
}
