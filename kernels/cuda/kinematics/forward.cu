// Forward kinematics and Jacobians. The chain is the launch's argument, which every thread of a warp reads at the same
// place at once: constant memory.
//
// Arms (one link, no branch): a warp takes 32 x kRowsEach rows that lie together. It copies their coordinates into its
// shared memory, and its results from there to the output, 16 bytes an access: a row of 7 numbers has no such accesses
// of its own. A thread's frames stay in registers, and each constant of the chain serves all rows of the thread.
// Other chains: a thread a row, straight from and to memory; the frames at which branches begin are kept in the
// thread's own memory.
// A block has four warps, or as many as find room.
// Shared: each warp's own: `rows` x joints coordinates, then `rows` x width results. Odd widths have no bank conflicts.
// Bytes:  the coordinates once, the results once.
#include <algorithm>

#include "forward.h"

#include "cuda/common/tile.cuh"
#include "robocache/kinematics/chain.h"

namespace robocache {
namespace {

using kinematics::Chain;
using kinematics::Form;

constexpr int kThreads = 128;
constexpr int kShared = 48 << 10;  // bytes a block has without asking

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

// Where a warp's rows are, and its shared memory, in which their coordinates lie when this is made.
template <class A> struct Rows {
  int64_t first;
  int count;
  A *q, *results;

  __device__ Rows(const A* all, int joints, int width, int each, int64_t rows) {
    extern __shared__ uint4 shared[];
    const int tile = 32 * each;
    const WarpRows mine(rows, tile);
    first = mine.first, count = mine.count;
    q = reinterpret_cast<A*>(shared) + (threadIdx.x / 32) * tile * (joints + width);
    results = q + tile * joints;
    copy(all + first * joints, q, count * joints);
    __syncwarp();
  }
  __device__ void write(A* out, int width) const {
    __syncwarp();
    copy(results, out + first * width, count * width);
  }
};

// Two rows a thread read each constant of the chain once, and hide each other's latencies; of float64 one has registers
// enough.
template <class A> constexpr int kRowsEach = sizeof(A) == 4 ? 2 : 1;

// Left to choose how many blocks share a multiprocessor, ptxas 13.0 spills a register of float64 for sm_100.
template <class A> constexpr int kBlocksAtLeast = sizeof(A) == 8 ? 1 : 0;

template <class A, Form kForm>
__global__ void __launch_bounds__(kThreads, kBlocksAtLeast<A>)
    arm_forward_kernel(const __grid_constant__ Chain<A> chain, const A* q, A* out, int64_t rows) {
  constexpr int R = kRowsEach<A>;
  const int joints = chain.joints, width = kinematics::width_of(kForm), lane = threadIdx.x % 32;
  const Rows<A> mine(q, joints, width, R, rows);
  const A* x[R];
  A f[R][12];
  bool good[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    x[r] = mine.q + (lane + 32 * r) * joints;
    good[r] = lane + 32 * r < mine.count && kinematics::finite(x[r], joints);
    kinematics::identity(f[r]);
  }
#pragma unroll 1
  for (int k = 0; k < chain.nodes; ++k) {
    const int j = chain.coordinate[k];
#pragma unroll
    for (int r = 0; r < R; ++r) kinematics::pass(chain, k, good[r] ? x[r][j] : A(0), f[r]);
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    kinematics::advance(f[r], chain.behind[0]);
    A* y = mine.results + (lane + 32 * r) * width;
    if (good[r]) {
      kinematics::write(f[r], kForm, y);
    } else {
      for (int i = 0; i < width; ++i) y[i] = A(NAN);
    }
  }
  mine.write(out, width);
}

// The axis and origin of each node wait in its column of the result for the link's frame.
template <class A>
__global__ void __launch_bounds__(kThreads)
    arm_jacobian_kernel(const __grid_constant__ Chain<A> chain, const A* q, bool body, A* out, int64_t rows) {
  const int joints = chain.joints, width = 6 * joints, lane = threadIdx.x % 32;
  const Rows<A> mine(q, joints, width, 1, rows);
  const A* x = mine.q + lane * joints;
  A* y = mine.results + lane * width;
  if (lane < mine.count) {
    const bool good = kinematics::finite(x, joints);
    if (!good || chain.nodes < joints) {
      for (int i = 0; i < width; ++i) y[i] = good ? A(0) : A(NAN);
    }
    A f[12];
    kinematics::identity(f);
#pragma unroll 1
    for (int k = 0; good && k < chain.nodes; ++k) {
      const int j = chain.coordinate[k];
      kinematics::pass(chain, k, x[j], f);
      for (int i = 0; i < 3; ++i) {
        y[i * joints + j] = f[4 * i + 2];
        y[(3 + i) * joints + j] = f[4 * i + 3];
      }
    }
    kinematics::advance(f, chain.behind[0]);
#pragma unroll 1
    for (int k = 0; good && k < chain.nodes; ++k) {
      A* column = y + chain.coordinate[k];
      A z[6], own[6];
      for (int i = 0; i < 6; ++i) z[i] = column[i * joints];
      kinematics::velocity(chain.sliding[k] != 0, z, f, body, own);
      for (int i = 0; i < 6; ++i) column[i * joints] = fused(chain.factor[k], own[i], A(0));
    }
  }
  mine.write(out, width);
}

// Grids of at most 2^31 - 1 blocks: 2^38 rows, more than any memory holds.
unsigned blocks_of(int64_t rows, int each) { return unsigned((rows + each - 1) / each); }

// A launch for an arm: threads a block (0: a warp's tile has no room) and their shared memory.
struct Block {
  int threads, shared;
  template <class A> static Block of(const Chain<A>& chain, int width, int each) {
    const int warp = 32 * each * (chain.joints + width) * int(sizeof(A));
    const int warps = std::min(kThreads / 32, kShared / std::max(warp, 1));
    return {32 * warps, warp * warps};
  }
};

template <class A>
void launch_forward(const Chain<A>& chain, const A* q, Form form, A* out, int64_t rows, cudaStream_t queue) {
  constexpr int R = kRowsEach<A>;
  const Block block = Block::of(chain, kinematics::width_of(form), R);
  if (rows == 0) return;
  if (!kinematics::serial(chain) || block.threads == 0) {
    forward_kernel<<<blocks_of(rows, kThreads), kThreads, 0, queue>>>(chain, q, form, out, rows);
    return;
  }
  const auto kernel = form == Form::pose    ? &arm_forward_kernel<A, Form::pose>
                      : form == Form::rot6d ? &arm_forward_kernel<A, Form::rot6d>
                                            : &arm_forward_kernel<A, Form::frame>;
  kernel<<<blocks_of(rows, R * block.threads), block.threads, block.shared, queue>>>(chain, q, out, rows);
}

template <class A>
void launch_jacobian(const Chain<A>& chain, const A* q, bool body, A* out, int64_t rows, cudaStream_t queue) {
  const Block block = Block::of(chain, 6 * chain.joints, 1);
  if (rows == 0) return;
  if (kinematics::serial(chain) && kinematics::without_mimics(chain) && block.threads > 0) {
    arm_jacobian_kernel<<<blocks_of(rows, block.threads), block.threads, block.shared, queue>>>(chain, q, body, out,
                                                                                                rows);
  } else {
    jacobian_kernel<<<blocks_of(rows, kThreads), kThreads, 0, queue>>>(chain, q, body, out, rows);
  }
}

}  // namespace

void cuda::forward(const Chain<float>& chain, const float* q, Form form, float* out, int64_t rows, cudaStream_t queue) {
  launch_forward(chain, q, form, out, rows, queue);
}
void cuda::forward(const Chain<double>& chain, const double* q, Form form, double* out, int64_t rows,
                   cudaStream_t queue) {
  launch_forward(chain, q, form, out, rows, queue);
}
void cuda::jacobian(const Chain<float>& chain, const float* q, bool body, float* out, int64_t rows,
                    cudaStream_t queue) {
  launch_jacobian(chain, q, body, out, rows, queue);
}
void cuda::jacobian(const Chain<double>& chain, const double* q, bool body, double* out, int64_t rows,
                    cudaStream_t queue) {
  launch_jacobian(chain, q, body, out, rows, queue);
}

}  // namespace robocache
