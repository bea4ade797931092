// The doors to kinematics on the GPU: one launch a call, the chain as its argument.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace robocache::kinematics {

template <class A> struct Chain;
enum class Form : int32_t;

}  // namespace robocache::kinematics

namespace robocache::cuda {

void forward(const kinematics::Chain<float>& chain, const float* q, kinematics::Form form, float* out, int64_t rows,
             cudaStream_t stream);
void forward(const kinematics::Chain<double>& chain, const double* q, kinematics::Form form, double* out, int64_t rows,
             cudaStream_t stream);
void jacobian(const kinematics::Chain<float>& chain, const float* q, bool body, float* out, int64_t rows,
              cudaStream_t stream);
void jacobian(const kinematics::Chain<double>& chain, const double* q, bool body, double* out, int64_t rows,
              cudaStream_t stream);

}  // namespace robocache::cuda
