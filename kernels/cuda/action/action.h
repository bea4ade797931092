// The doors to rotations and actions on the GPU: one launch a call.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace robocache::rotation {
struct Representation;
}
namespace robocache::action {
struct Columns;
struct Windows;
}  // namespace robocache::action

namespace robocache::cuda {

#define RC_ACTION_DOORS(A)                                                                                           \
  void convert_rotation(const A* x, const rotation::Representation& source, const rotation::Representation& target, \
                        A* out, int64_t rows, cudaStream_t stream);                                                  \
  void relative_pose(const A* pose, const A* base, bool compose, A* out, int64_t rows, cudaStream_t stream);         \
  void relative_actions(const A* actions, const A* base, const action::Columns& columns,                             \
                        const action::Windows& windows, A* out, cudaStream_t stream);
RC_ACTION_DOORS(float)
RC_ACTION_DOORS(double)
#undef RC_ACTION_DOORS

}  // namespace robocache::cuda
