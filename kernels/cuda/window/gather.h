// The door to windows of rows on a GPU: all columns by one launch.
#pragma once
#include <cuda_runtime.h>

namespace robocache::window {
struct Column;
struct Rows;
}  // namespace robocache::window

namespace robocache::cuda {

void gather_windows(const window::Column* columns, int count, const window::Rows& rows, cudaStream_t stream);

}  // namespace robocache::cuda
