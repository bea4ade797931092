// Body of the CPU kernels of rotations and actions, compiled once for each instruction set.
#include "robocache/action/relative.h"

namespace robocache::action {
inline namespace RC_ISA {
namespace {

template <class A>
void convert_as(const A* x, const rotation::Representation& source, const rotation::Representation& target, A* out,
                int64_t begin, int64_t end) {
  const int in = rotation::width_of(source.kind), width = rotation::width_of(target.kind);
  A from[rotation::kMostNumbers] = {}, to[rotation::kMostNumbers];
  for (int64_t r = begin; r < end; ++r) {
    for (int i = 0; i < in; ++i) from[i] = x[r * in + i];
    rotation::convert(from, source, target, to);
    for (int i = 0; i < width; ++i) out[r * width + i] = to[i];
  }
}

template <class A>
void pose_as(const A* pose, const A* base, bool compose, A* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) rotation::relative(pose + 7 * r, base + 7 * r, compose, out + 7 * r);
}

template <class A>
void windows_as(const A* actions, const A* base, const Columns& columns, const Windows& windows, A* out, int64_t begin,
                int64_t end) {
  const int width = columns.width;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t stop = end_of(windows, n);
    const A* from = (windows.from_state ? base : actions) + n * width;
    for (int k = 0; k < windows.count; ++k) {
      const int64_t row = row_of(windows, n, k, stop);
      A* to = out + (n * windows.count + k) * width;
      if (row < 0) {
        for (int c = 0; c < width; ++c) to[c] = not_a_number<A>();
        continue;
      }
      const A* x = actions + row * width;
      for (int c = 0; c < width; ++c) to[c] = one(x[c], from[c], has(columns.single, c), windows.compose);
      for (int p = 0; p < columns.poses; ++p) {
        const int at = columns.pose[p];
        rotation::relative(x + at, from + at, windows.compose, to + at);
      }
    }
  }
}

}  // namespace

#define RC_ACTION_KERNELS(A, suffix)                                                                                  \
  void convert_##suffix(const A* x, const rotation::Representation& source, const rotation::Representation& target,  \
                        A* out, int64_t begin, int64_t end) {                                                         \
    convert_as(x, source, target, out, begin, end);                                                                  \
  }                                                                                                                   \
  void pose_##suffix(const A* pose, const A* base, bool compose, A* out, int64_t begin, int64_t end) {                \
    pose_as(pose, base, compose, out, begin, end);                                                                   \
  }                                                                                                                   \
  void windows_##suffix(const A* actions, const A* base, const Columns& columns, const Windows& windows, A* out,     \
                        int64_t begin, int64_t end) {                                                                 \
    windows_as(actions, base, columns, windows, out, begin, end);                                                    \
  }
RC_ACTION_KERNELS(float, f32)
RC_ACTION_KERNELS(double, f64)
#undef RC_ACTION_KERNELS

}  // namespace RC_ISA
}  // namespace robocache::action
