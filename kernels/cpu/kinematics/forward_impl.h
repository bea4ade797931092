// Body of the CPU kernels of kinematics, compiled once for each instruction set.
#include "robocache/kinematics/chain.h"

namespace robocache::kinematics {
inline namespace RC_ISA {
namespace {

template <class A>
void forward_as(const Chain<A>& chain, const A* q, Form form, A* out, int64_t begin, int64_t end) {
  const int64_t width = int64_t(chain.links) * width_of(form);
  for (int64_t r = begin; r < end; ++r) forward(chain, q + r * chain.joints, form, out + r * width);
}

template <class A> void jacobian_as(const Chain<A>& chain, const A* q, bool body, A* out, int64_t begin, int64_t end) {
  const int64_t width = int64_t(chain.links) * 6 * chain.joints;
  for (int64_t r = begin; r < end; ++r) jacobian(chain, q + r * chain.joints, body, out + r * width);
}

}  // namespace

void forward_f32(const Chain<float>& chain, const float* q, Form form, float* out, int64_t begin, int64_t end) {
  forward_as(chain, q, form, out, begin, end);
}
void forward_f64(const Chain<double>& chain, const double* q, Form form, double* out, int64_t begin, int64_t end) {
  forward_as(chain, q, form, out, begin, end);
}
void jacobian_f32(const Chain<float>& chain, const float* q, bool body, float* out, int64_t begin, int64_t end) {
  jacobian_as(chain, q, body, out, begin, end);
}
void jacobian_f64(const Chain<double>& chain, const double* q, bool body, double* out, int64_t begin, int64_t end) {
  jacobian_as(chain, q, body, out, begin, end);
}

}  // namespace RC_ISA
}  // namespace robocache::kinematics
