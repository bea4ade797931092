// Baseline of the CPU kernels of rotations and actions, and the doors.
#include "action.h"

#include <cmath>

#include "cpu/isa.h"

#define RC_ISA isa_baseline
#include "action_impl.h"

namespace robocache {

namespace action {
RC_EACH_ISA(convert_f32)
RC_EACH_ISA(convert_f64)
RC_EACH_ISA(pose_f32)
RC_EACH_ISA(pose_f64)
RC_EACH_ISA(windows_f32)
RC_EACH_ISA(windows_f64)
}  // namespace action

namespace cpu {

#define RC_ACTION_DOORS(A, suffix)                                                                                    \
  void convert_rotation(const A* x, const rotation::Representation& source, const rotation::Representation& target,  \
                        A* out, int64_t begin, int64_t end) {                                                         \
    RC_FOR_THIS_MACHINE(action, convert_##suffix)(x, source, target, out, begin, end);                                \
  }                                                                                                                   \
  void relative_pose(const A* pose, const A* base, bool compose, A* out, int64_t begin, int64_t end) {                \
    RC_FOR_THIS_MACHINE(action, pose_##suffix)(pose, base, compose, out, begin, end);                                 \
  }                                                                                                                   \
  void relative_actions(const A* actions, const A* base, const action::Columns& columns,                              \
                        const action::Windows& windows, A* out, int64_t begin, int64_t end) {                         \
    RC_FOR_THIS_MACHINE(action, windows_##suffix)(actions, base, columns, windows, out, begin, end);                  \
  }
RC_ACTION_DOORS(float, f32)
RC_ACTION_DOORS(double, f64)
#undef RC_ACTION_DOORS

}  // namespace cpu
}  // namespace robocache
