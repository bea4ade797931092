// Baseline of the CPU kernels of kinematics, and the doors.
#include "forward.h"

#include <cmath>

#include "cpu/isa.h"

#define RC_ISA isa_baseline
#include "forward_impl.h"

namespace robocache {

namespace kinematics {
RC_EACH_ISA(forward_f32)
RC_EACH_ISA(forward_f64)
RC_EACH_ISA(jacobian_f32)
RC_EACH_ISA(jacobian_f64)
}  // namespace kinematics

namespace cpu {

using kinematics::Chain;
using kinematics::Form;

void forward(const Chain<float>& chain, const float* q, Form form, float* out, int64_t begin, int64_t end) {
  RC_FOR_THIS_MACHINE(kinematics, forward_f32)(chain, q, form, out, begin, end);
}
void forward(const Chain<double>& chain, const double* q, Form form, double* out, int64_t begin, int64_t end) {
  RC_FOR_THIS_MACHINE(kinematics, forward_f64)(chain, q, form, out, begin, end);
}
void jacobian(const Chain<float>& chain, const float* q, bool body, float* out, int64_t begin, int64_t end) {
  RC_FOR_THIS_MACHINE(kinematics, jacobian_f32)(chain, q, body, out, begin, end);
}
void jacobian(const Chain<double>& chain, const double* q, bool body, double* out, int64_t begin, int64_t end) {
  RC_FOR_THIS_MACHINE(kinematics, jacobian_f64)(chain, q, body, out, begin, end);
}

}  // namespace cpu
}  // namespace robocache
