// The doors to kinematics on the CPU: rows [begin, end), each by itself, so that any split gives the same bytes.
#pragma once
#include <cstdint>

namespace robocache::kinematics {

template <class A> struct Chain;
enum class Form : int32_t;

}  // namespace robocache::kinematics

namespace robocache::cpu {

void forward(const kinematics::Chain<float>& chain, const float* q, kinematics::Form form, float* out, int64_t begin,
             int64_t end);
void forward(const kinematics::Chain<double>& chain, const double* q, kinematics::Form form, double* out, int64_t begin,
             int64_t end);
void jacobian(const kinematics::Chain<float>& chain, const float* q, bool body, float* out, int64_t begin, int64_t end);
void jacobian(const kinematics::Chain<double>& chain, const double* q, bool body, double* out, int64_t begin,
              int64_t end);

}  // namespace robocache::cpu
