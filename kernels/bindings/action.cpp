// robocache::convert_rotation, robocache::relative_pose and robocache::relative_actions.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <cmath>

#include "bindings/common.h"
#include "cpu/action/action.h"
#include "cpu/threads.h"
#define RC_ISA isa_baseline
#include "robocache/action/relative.h"
#ifdef ROBOCACHE_CUDA
#include "cuda/action/action.h"
#endif

namespace robocache {
namespace {

using action::Columns;
using action::kMostColumns;
using action::kMostPoses;
using action::kMostSteps;
using action::Windows;
using rotation::Kind;
using rotation::Representation;

constexpr int64_t kPose = 7;

// kind, of euler + 7 * (first + 3 second + 9 third axis + 27 where they turn along)
Representation representation_of(int64_t code, const char* name) {
  TORCH_CHECK_VALUE(0 <= code && code < 7 * 54 && (code % 7 == 6 || code < 6), "convert_rotation: ", name, " ", code);
  const int64_t axes = code / 7;
  return {Kind(code % 7), {int32_t(axes % 3), int32_t(axes / 3 % 3), int32_t(axes / 9 % 3)}, axes >= 27};
}

void check_number(const Tensor& x, const Argument& argument) {
  TORCH_CHECK_VALUE(x.scalar_type() == at::kDouble || x.scalar_type() == at::kFloat, argument, " is ", x.scalar_type(),
                    "; use float64 or float32");
}

void check_alike(const Tensor& a, const Tensor& b, const Argument& argument) {
  TORCH_CHECK_VALUE(a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && a.device() == b.device(), argument,
                    " ", b.scalar_type(), " ", b.sizes(), " on ", b.device(), " must be like the first argument, ",
                    a.scalar_type(), " ", a.sizes(), " on ", a.device());
}

// call(A{}) with the type of the tensor's numbers.
template <class Call> void typed(const Tensor& x, const Call& call) {
  x.scalar_type() == at::kDouble ? call(double{}) : call(float{});
}

// run(begin, end) for all rows, in threads; `each`: the numbers that one makes, or as much work.
template <class Run> void in_pieces(int64_t rows, int64_t each, const Run& run) {
  const int64_t piece = std::max<int64_t>(1, cpu::kPiece / each);
  cpu::in_threads((rows + piece - 1) / piece, at::get_num_threads(),
                  [&](int64_t p) { run(p * piece, std::min(rows, (p + 1) * piece)); });
}

Tensor convert_rotation(const Tensor& rotations, int64_t source, int64_t target) {
  const Representation from = representation_of(source, "source"), to = representation_of(target, "target");
  check_number(rotations, {"convert_rotation", "x"});
  TORCH_CHECK_VALUE(rotations.dim() == 2 && rotations.size(1) == rotation::width_of(from.kind),
                    "convert_rotation: x must be [N, ", rotation::width_of(from.kind), "], got ", rotations.sizes());
  const Tensor x = rotations.contiguous();
  const int64_t rows = x.size(0), width = rotation::width_of(to.kind);
  const Tensor out = allocate({rows, width}, x.options());
  typed(x, [&](auto number) {
    using A = decltype(number);
    const A* given = x.const_data_ptr<A>();
    A* made = out.mutable_data_ptr<A>();
#ifdef ROBOCACHE_CUDA
    if (x.is_cuda()) {
      on_device(x.device(), [&](auto stream) { cuda::convert_rotation(given, from, to, made, rows, stream); });
      return;
    }
#endif
    in_pieces(rows, 4 * width, [&](int64_t begin, int64_t end) {
      cpu::convert_rotation(given, from, to, made, begin, end);
    });
  });
  return out;
}

Tensor relative_pose(const Tensor& poses, const Tensor& bases, bool compose) {
  check_number(poses, {"relative_pose", "pose"});
  TORCH_CHECK_VALUE(poses.dim() == 2 && poses.size(1) == kPose, "relative_pose: pose must be [N, 7], got ",
                    poses.sizes());
  check_alike(poses, bases, {"relative_pose", "base"});
  const Tensor pose = poses.contiguous(), base = bases.contiguous();
  const int64_t rows = pose.size(0);
  const Tensor out = allocate({rows, kPose}, pose.options());
  typed(pose, [&](auto number) {
    using A = decltype(number);
    const A *p = pose.const_data_ptr<A>(), *b = base.const_data_ptr<A>();
    A* made = out.mutable_data_ptr<A>();
#ifdef ROBOCACHE_CUDA
    if (pose.is_cuda()) {
      on_device(pose.device(), [&](auto stream) { cuda::relative_pose(p, b, compose, made, rows, stream); });
      return;
    }
#endif
    in_pieces(rows, 4 * kPose, [&](int64_t begin, int64_t end) { cpu::relative_pose(p, b, compose, made, begin, end); });
  });
  return out;
}

// single: of each column, whether it is a number that is relative by itself; poses: the first columns of poses.
Columns columns_of(int64_t width, at::ArrayRef<int64_t> single, at::ArrayRef<int64_t> poses) {
  const char* op = "relative_actions";
  TORCH_CHECK_VALUE(width <= kMostColumns && int64_t(poses.size()) <= kMostPoses, op, ": ", width, " columns and ",
                    poses.size(), " poses; at most ", kMostColumns, " and ", kMostPoses);
  TORCH_CHECK_VALUE(int64_t(single.size()) == width, op, ": single has ", single.size(), " values for ", width,
                    " columns");
  Columns columns{};
  columns.width = int32_t(width), columns.poses = int32_t(poses.size());
  for (int64_t c = 0; c < width; ++c) columns.single[c / 32] |= uint32_t(single[c] != 0) << (c % 32);
  for (size_t p = 0; p < poses.size(); ++p) {
    TORCH_CHECK_VALUE(0 <= poses[p] && poses[p] + kPose <= width, op, ": a pose at column ", poses[p], " of ", width);
    columns.pose[p] = int16_t(poses[p]);
    for (int64_t c = poses[p]; c < poses[p] + kPose; ++c) columns.posed[c / 32] |= 1u << (c % 32);
  }
  return columns;
}

Tensor relative_actions(const Tensor& rows, const std::optional<Tensor>& state, const std::optional<Tensor>& offsets,
                        int64_t first, int64_t count, at::ArrayRef<int64_t> single, at::ArrayRef<int64_t> poses,
                        bool compose) {
  const char* op = "relative_actions";
  check_number(rows, {op, "actions"});
  TORCH_CHECK_VALUE(rows.dim() == 2, op, ": actions must be [N, D], got ", rows.sizes());
  TORCH_CHECK_VALUE(0 <= first && 1 <= count && first + count <= kMostSteps, op, ": first ", first, " and count ",
                    count, "; at most ", kMostSteps, " together");
  if (state) check_alike(rows, *state, {op, "state"});
  const Tensor actions = rows.contiguous(), base = state ? state->contiguous() : actions;
  const Columns columns = columns_of(actions.size(1), single, poses);
  Tensor begins;
  Windows windows{actions.size(0), int32_t(first), int32_t(count), nullptr, 0, state.has_value(), compose};
  if (offsets) {
    begins = checked_offsets(*offsets, actions.size(0), actions.device(), {op, "offsets"});
    windows.offsets = begins.const_data_ptr<int64_t>(), windows.episodes = begins.size(0) - 1;
  }
  const Tensor out = allocate({actions.size(0), count, actions.size(1)}, actions.options());
  typed(actions, [&](auto number) {
    using A = decltype(number);
    const A *x = actions.const_data_ptr<A>(), *from = base.const_data_ptr<A>();
    A* made = out.mutable_data_ptr<A>();
#ifdef ROBOCACHE_CUDA
    if (actions.is_cuda()) {
      on_device(actions.device(),
                [&](auto stream) { cuda::relative_actions(x, from, columns, windows, made, stream); });
      return;
    }
#endif
    in_pieces(windows.rows, std::max<int64_t>(1, count * actions.size(1)), [&](int64_t begin, int64_t end) {
      cpu::relative_actions(x, from, columns, windows, made, begin, end);
    });
  });
  return out;
}

}  // namespace
}  // namespace robocache

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def("convert_rotation(Tensor x, int source, int target) -> Tensor");
  m.def("relative_pose(Tensor pose, Tensor base, bool compose) -> Tensor");
  m.def(
      "relative_actions(Tensor actions, Tensor? state, Tensor? offsets, int first, int count, int[] single, "
      "int[] poses, bool compose) -> Tensor");
}

#define RC_ACTION_KERNELS(m)                                \
  m.impl("convert_rotation", &robocache::convert_rotation); \
  m.impl("relative_pose", &robocache::relative_pose);       \
  m.impl("relative_actions", &robocache::relative_actions);

TORCH_LIBRARY_IMPL(robocache, CPU, m) { RC_ACTION_KERNELS(m) }
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { RC_ACTION_KERNELS(m) }
#endif
// Gradients are the plain-torch twins'; asked of the operators themselves, torch says that there are none.
TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  for (const char* op : {"convert_rotation", "relative_pose", "relative_actions"}) {
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  }
}
