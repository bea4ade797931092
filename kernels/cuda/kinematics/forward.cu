// Forward kinematics and Jacobians: a thread a row. The chain is the launch's argument, which every thread of a warp
// reads at the same place at once. Bytes: the coordinates once, the outputs once; frames of a chain without branches
// stay in registers, a branch's are kept in the thread's own memory.
#include "forward.h"

#include "robocache/kinematics/chain.h"

namespace robocache {
namespace {

using kinematics::Chain;
using kinematics::Form;

constexpr int kThreads = 128;

template <class A>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const __grid_constant__ Chain<A> chain, const A* q, Form form, A* out, int64_t rows) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= rows) return;
  const int width = kinematics::width_of(form);
  kinematics::forward(chain, q + r * chain.joints, form, out + r * chain.links * width);
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    jacobian_kernel(const __grid_constant__ Chain<A> chain, const A* q, bool body, A* out, int64_t rows) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= rows) return;
  kinematics::jacobian(chain, q + r * chain.joints, body, out + r * chain.links * 6 * chain.joints);
}

// Grids of at most 2^31 - 1 blocks: 2^38 rows, more than any memory holds.
unsigned blocks_of(int64_t rows) { return unsigned((rows + kThreads - 1) / kThreads); }

}  // namespace

void cuda::forward(const Chain<float>& chain, const float* q, Form form, float* out, int64_t rows, cudaStream_t queue) {
  if (rows) forward_kernel<<<blocks_of(rows), kThreads, 0, queue>>>(chain, q, form, out, rows);
}
void cuda::forward(const Chain<double>& chain, const double* q, Form form, double* out, int64_t rows,
                   cudaStream_t queue) {
  if (rows) forward_kernel<<<blocks_of(rows), kThreads, 0, queue>>>(chain, q, form, out, rows);
}
void cuda::jacobian(const Chain<float>& chain, const float* q, bool body, float* out, int64_t rows,
                    cudaStream_t queue) {
  if (rows) jacobian_kernel<<<blocks_of(rows), kThreads, 0, queue>>>(chain, q, body, out, rows);
}
void cuda::jacobian(const Chain<double>& chain, const double* q, bool body, double* out, int64_t rows,
                    cudaStream_t queue) {
  if (rows) jacobian_kernel<<<blocks_of(rows), kThreads, 0, queue>>>(chain, q, body, out, rows);
}

}  // namespace robocache
