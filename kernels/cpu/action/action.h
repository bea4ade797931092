// The doors to rotations and actions on the CPU: rows [begin, end), each by itself, so that any split gives the same
// bytes.
#pragma once
#include <cstdint>

namespace robocache::rotation {
struct Representation;
}
namespace robocache::action {
struct Columns;
struct Windows;
}  // namespace robocache::action

namespace robocache::cpu {

#define RC_ACTION_DOORS(A)                                                                                            \
  void convert_rotation(const A* x, const rotation::Representation& source, const rotation::Representation& target,  \
                        A* out, int64_t begin, int64_t end);                                                          \
  void relative_pose(const A* pose, const A* base, bool compose, A* out, int64_t begin, int64_t end);                 \
  void relative_actions(const A* actions, const A* base, const action::Columns& columns,                              \
                        const action::Windows& windows, A* out, int64_t begin, int64_t end);
RC_ACTION_DOORS(float)
RC_ACTION_DOORS(double)
#undef RC_ACTION_DOORS

}  // namespace robocache::cpu
