// What the bindings of every family share: checks whose messages name the operator and the argument, results' memory,
// and the way onto a device. The files of this folder are the only ones that see torch.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Formatting.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_cpu_dispatch.h>
#include <c10/core/ScalarType.h>
#include <torch/library.h>

#include "robocache/core/dtype.h"
#ifdef ROBOCACHE_CUDA
#include <ATen/ops/empty_cuda_dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace robocache {

using at::Tensor;
using OptionalTensors = c10::List<std::optional<Tensor>>;

// An argument in a message: "fuse: offsets[2]".
struct Argument {
  const char* op;
  const char* name;
  int64_t index = -1;  // in a list
};
inline std::ostream& operator<<(std::ostream& out, const Argument& a) {
  out << a.op << ": " << a.name;
  return a.index < 0 ? out : out << "[" << a.index << "]";
}

inline DType value_dtype(const Tensor& x, const Argument& argument) {
  switch (x.scalar_type()) {
    case at::kDouble: return DType::f64;
    case at::kFloat: return DType::f32;
    case at::kHalf: return DType::f16;
    case at::kBFloat16: return DType::bf16;
    default:
      TORCH_CHECK_VALUE(false, argument, " are ", x.scalar_type(), "; use float64, float32, float16 or bfloat16");
  }
}

inline DType output_dtype(at::ScalarType type, const char* op) {
  switch (type) {
    case at::kDouble: return DType::f64;
    case at::kFloat: return DType::f32;
    case at::kHalf: return DType::f16;
    case at::kBFloat16: return DType::bf16;
    case at::kFloat8_e4m3fn: return DType::e4m3;
    case at::kFloat8_e5m2: return DType::e5m2;
    case at::kChar: return DType::i8;
    default:
      TORCH_CHECK_VALUE(false, op, ": out_dtype ", type,
                        "; use float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2 or int8");
  }
}

// The kernels take any batch and row stride, but columns (and stamps) side by side.
inline Tensor with_unit_stride(const Tensor& x) {
  return x.dim() == 0 || x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous();
}

// Offsets of a jagged batch: their kind, and, of a host tensor, their values, which can be looked at for free; on a
// device the caller vouches for them (validate=True looks). Contiguous.
inline Tensor checked_offsets(const Tensor& offsets, int64_t total, at::Device device, const Argument& argument) {
  TORCH_CHECK_VALUE(offsets.scalar_type() == at::kLong && offsets.dim() == 1 && offsets.size(0) >= 1, argument,
                    " must be int64 [B+1], got ", offsets.scalar_type(), " ", offsets.sizes());
  TORCH_CHECK_VALUE(offsets.device() == device, argument, " is on ", offsets.device(), ", the rest on ", device);
  Tensor o = offsets.contiguous();
  if (!o.is_cpu()) return o;
  const int64_t* at = o.const_data_ptr<int64_t>();
  const int64_t last = o.size(0) - 1;
  bool sorted = at[0] == 0 && at[last] == total;
  for (int64_t b = 0; b < last; ++b) sorted &= at[b] <= at[b + 1];
  TORCH_CHECK_VALUE(sorted, argument, " must rise from 0 to ", total, ", got ", offsets);
  return o;
}

// Past the dispatcher, which has found the device: two calls of it less are half a microsecond of a small call.
inline Tensor allocate(at::IntArrayRef shape, const at::TensorOptions& options) {
#ifdef ROBOCACHE_CUDA
  if (options.device().is_cuda()) return at::cuda::empty(shape, options);
#endif
  return at::cpu::empty(shape, options);
}

#ifdef ROBOCACHE_CUDA
// launch(stream) with `device` as the current one, on its current stream; then asks whether the launch went well.
template <class Launch> void on_device(at::Device device, const Launch& launch) {
  const c10::cuda::CUDAGuard guard(device);
  launch(c10::cuda::getCurrentCUDAStream(device.index()).stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}
#endif

}  // namespace robocache
