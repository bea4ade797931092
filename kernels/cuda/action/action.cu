// Rotations, poses, and actions as seen from a base.
//
// Rotations and poses: a thread a row. A warp copies its 32 rows into its shared memory and its results from there to
// the output, 16 bytes an access: rows of 3, 6, 7 or 9 numbers have no such accesses of their own. A thread's numbers
// stay in registers; the representations are the launch's argument, so that no branch divides a warp.
// Actions: a warp takes 32 rows of the output, which lie together, whatever row of the input and whatever step of its
// window they are: a lane finds where one of them is read. Single numbers are computed a number a lane, and written
// where they go; where there are poses, which take a row a lane, both gather in shared memory.
// A block has four warps, or as many as find room.
// Shared: rotations, each warp's own: 32 rows of the source, then 32 of the target; poses 32 rows of the pose, the base
//         and the result; actions two distances a row, and with poses 32 rows of the result. Odd widths have no bank
//         conflicts.
// Bytes:  each input once (rows that several windows share come from the cache), the results once.
#include <algorithm>

#include "action.h"

#include "cuda/common/tile.cuh"
#include "robocache/action/relative.h"
#include "robocache/core/divisor.h"

namespace robocache {
namespace {

using action::Columns;
using action::Windows;
using rotation::kMostNumbers;
using rotation::Representation;

constexpr int kThreads = 128, kPose = 7;
constexpr int kShared = 48 << 10;  // bytes a block has without asking

template <class A> __device__ A* shared_of_warp(int numbers) {
  extern __shared__ uint4 shared[];
  return reinterpret_cast<A*>(shared) + (threadIdx.x / 32) * numbers;
}

template <class A>
__global__ void __launch_bounds__(kThreads, 8)  // eight: left alone, the compiler aims at 48 registers and spills
    convert_kernel(const A* x, const __grid_constant__ Representation source,
                   const __grid_constant__ Representation target, A* out, int64_t rows) {
  const int in = rotation::width_of(source.kind), width = rotation::width_of(target.kind), lane = threadIdx.x % 32;
  const WarpRows mine(rows, 32);
  A* given = shared_of_warp<A>(32 * (in + width));
  A* made = given + 32 * in;
  copy(x + mine.first * in, given, mine.count * in);
  __syncwarp();
  if (lane < mine.count) {
    A from[kMostNumbers], to[kMostNumbers];
#pragma unroll
    for (int i = 0; i < kMostNumbers; ++i) from[i] = i < in ? given[lane * in + i] : A(0);
    rotation::convert(from, source, target, to);
#pragma unroll
    for (int i = 0; i < kMostNumbers; ++i) {
      if (i < width) made[lane * width + i] = to[i];
    }
  }
  __syncwarp();
  copy(made, out + mine.first * width, mine.count * width);
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    pose_kernel(const A* pose, const A* base, bool compose, A* out, int64_t rows) {
  const int lane = threadIdx.x % 32;
  const WarpRows mine(rows, 32);
  A* p = shared_of_warp<A>(3 * 32 * kPose);
  A *b = p + 32 * kPose, *made = b + 32 * kPose;
  copy(pose + mine.first * kPose, p, mine.count * kPose);
  copy(base + mine.first * kPose, b, mine.count * kPose);
  __syncwarp();
  if (lane < mine.count) rotation::relative(p + lane * kPose, b + lane * kPose, compose, made + lane * kPose);
  __syncwarp();
  copy(made, out + mine.first * kPose, mine.count * kPose);
}

// A warp's 32 rows of the output, as distances from the window of the first of them, in numbers: where each is read, or
// -1 where its episode has no such row, and where its base is.
struct WindowRows {
  int from[32], base[32];
};

template <class A, bool kPosed>
__global__ void __launch_bounds__(kThreads)
    windows_kernel(const A* actions, const A* base, const __grid_constant__ Columns columns,
                   const __grid_constant__ Windows windows, Divisor by_count, A* out) {
  __shared__ WindowRows shared[kThreads / 32];
  WindowRows& rows = shared[threadIdx.x / 32];
  const int width = columns.width, lane = threadIdx.x % 32;
  const WarpRows mine(windows.rows * windows.count, 32);
  if (mine.count == 0) return;
  const int64_t n0 = mine.first / windows.count;
  const uint32_t step = uint32_t(mine.first - n0 * windows.count) + uint32_t(lane), over = by_count.quotient(step);
  const int64_t n = n0 + over;
  int64_t row = -1;
  if (lane < mine.count) {
    row = action::row_of(windows, n, int64_t(step - over * by_count.d), action::end_of(windows, n));
  }
  rows.from[lane] = row < 0 ? -1 : int(row - n0) * width;
  rows.base[lane] = int(over) * width;
  __syncwarp();
  const A *x = actions + n0 * width, *b = (windows.from_state ? base : actions) + n0 * width;
  A* to = kPosed ? shared_of_warp<A>(32 * width) : out + mine.first * width;
  const int numbers = mine.count * width, rows_on = 32 / width, columns_on = 32 % width;
  for (int e = lane, r = lane / width, c = lane % width; e < numbers; e += 32) {
    const int from = rows.from[r];
    A value = not_a_number<A>();
    if (from >= 0 && !(kPosed && action::has(columns.posed, c))) {
      value = action::one(x[from + c], b[rows.base[r] + c], action::has(columns.single, c), windows.compose);
    }
    if constexpr (kPosed) {
      to[e] = value;
    } else {
      __stcs(to + e, value);
    }
    r += rows_on, c += columns_on;
    if (c >= width) ++r, c -= width;
  }
  if constexpr (kPosed) {
    __syncwarp();
    for (int p = 0; p < columns.poses && row >= 0; ++p) {
      const int at = columns.pose[p];
      rotation::relative(x + rows.from[lane] + at, b + rows.base[lane] + at, windows.compose, to + lane * width + at);
    }
    __syncwarp();
    copy(to, out + mine.first * width, numbers);
  }
}

// Grids of at most 2^31 - 1 blocks: 2^38 rows, more than any memory holds.
unsigned blocks_of(int64_t rows, int each) { return unsigned((rows + each - 1) / each); }

// Threads a block of warps that each take 32 rows of `numbers` numbers in shared memory.
template <class A> int threads_for(int numbers) {
  return 32 * std::max(1, std::min(kThreads / 32, kShared / std::max(1, 32 * numbers * int(sizeof(A)))));
}

template <class A>
void launch_convert(const A* x, const Representation& source, const Representation& target, A* out, int64_t rows,
                    cudaStream_t queue) {
  if (rows == 0) return;
  const int numbers = rotation::width_of(source.kind) + rotation::width_of(target.kind);
  convert_kernel<A><<<blocks_of(rows, kThreads), kThreads, kThreads * numbers * sizeof(A), queue>>>(x, source, target,
                                                                                                    out, rows);
}

template <class A>
void launch_pose(const A* pose, const A* base, bool compose, A* out, int64_t rows, cudaStream_t queue) {
  if (rows == 0) return;
  pose_kernel<A><<<blocks_of(rows, kThreads), kThreads, kThreads * 3 * kPose * sizeof(A), queue>>>(pose, base, compose,
                                                                                                   out, rows);
}

template <class A>
void launch_windows(const A* actions, const A* base, const Columns& columns, const Windows& windows, A* out,
                    cudaStream_t queue) {
  const int64_t rows = windows.rows * windows.count;
  if (rows == 0 || columns.width == 0) return;
  const auto by_count = Divisor::of(windows.count);
  if (columns.poses == 0) {
    windows_kernel<A, false>
        <<<blocks_of(rows, kThreads), kThreads, 0, queue>>>(actions, base, columns, windows, by_count, out);
    return;
  }
  const int threads = threads_for<A>(columns.width), shared = threads * columns.width * int(sizeof(A));
  if (shared > kShared - int(sizeof(WindowRows)) * kThreads / 32) {
    cudaFuncSetAttribute(&windows_kernel<A, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  }
  windows_kernel<A, true>
      <<<blocks_of(rows, threads), threads, shared, queue>>>(actions, base, columns, windows, by_count, out);
}

}  // namespace

#define RC_ACTION_DOORS(A)                                                                                            \
  void cuda::convert_rotation(const A* x, const Representation& source, const Representation& target, A* out,         \
                              int64_t rows, cudaStream_t queue) {                                                     \
    launch_convert(x, source, target, out, rows, queue);                                                              \
  }                                                                                                                   \
  void cuda::relative_pose(const A* pose, const A* base, bool compose, A* out, int64_t rows, cudaStream_t queue) {    \
    launch_pose(pose, base, compose, out, rows, queue);                                                               \
  }                                                                                                                   \
  void cuda::relative_actions(const A* actions, const A* base, const Columns& columns, const Windows& windows,        \
                              A* out, cudaStream_t queue) {                                                           \
    launch_windows(actions, base, columns, windows, out, queue);                                                      \
  }
RC_ACTION_DOORS(float)
RC_ACTION_DOORS(double)

}  // namespace robocache
