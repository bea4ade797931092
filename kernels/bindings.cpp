// Where torch's world ends: checks the tensors, fills the kernels' plain structs, registers the operator.
#include <ATen/Parallel.h>
#include <ATen/core/Formatting.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_cpu_dispatch.h>
#include <c10/core/ScalarType.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <thread>
#include <vector>

#include "cpu/fuse.h"
#ifdef ROBOCACHE_CUDA
#include <ATen/ops/empty_cuda_dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/fuse.h"
#endif

namespace robocache {
namespace {

using at::Tensor;
using OptionalTensors = c10::List<std::optional<Tensor>>;

constexpr int64_t kModes = int64_t(Mode::angle) + 1;

// CPU work is handed out in pieces of this many output elements (about 50 us each), and a thread is started for every
// 16 pieces. Threads live for one call: starting one takes about 20 us, and there is no pool to break in a forked
// data-loader worker or to fight torch's own OpenMP threads for cores.
constexpr int64_t kPiece = 1 << 15;
constexpr int64_t kPiecesPerThread = 16;

// work(p) for every p of [0, pieces), on up to at::get_num_threads() threads.
template <class Work> void in_threads(int64_t pieces, const Work& work) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), pieces / kPiecesPerThread + 1);
  std::atomic<int64_t> taken{0};
  const auto take = [&] {
    for (int64_t p; (p = taken.fetch_add(1)) < pieces;) work(p);
  };
  std::vector<std::thread> helpers;
  for (int64_t k = 1; k < threads; ++k) helpers.emplace_back(take);
  take();
  for (std::thread& helper : helpers) helper.join();
}

DType value_dtype(const Tensor& x, int64_t m) {
  switch (x.scalar_type()) {
    case at::kDouble: return DType::f64;
    case at::kFloat: return DType::f32;
    case at::kHalf: return DType::f16;
    case at::kBFloat16: return DType::bf16;
    default:
      TORCH_CHECK_VALUE(false, "fuse: values[", m, "] are ", x.scalar_type(),
                        "; use float64, float32, float16 or bfloat16");
  }
}

DType output_dtype(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return DType::f64;
    case at::kFloat: return DType::f32;
    case at::kHalf: return DType::f16;
    case at::kBFloat16: return DType::bf16;
    case at::kFloat8_e4m3fn: return DType::e4m3;
    case at::kFloat8_e5m2: return DType::e5m2;
    case at::kChar: return DType::i8;
    default:
      TORCH_CHECK_VALUE(false, "fuse: out_dtype ", type,
                        "; use float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2 or int8");
  }
}

TimeType time_type(const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kLong: return TimeType::i64;
    case at::kDouble: return TimeType::f64;
    case at::kFloat: return TimeType::f32;
    default:
      TORCH_CHECK_VALUE(false, "fuse: target times are ", t.scalar_type(),
                        "; use int64 nanoseconds (or float64, float32)");
  }
}

TimeValue time_value(TimeType type, const at::Scalar& s) {
  TimeValue v;
  switch (type) {
    case TimeType::i64: v.i64 = s.toLong(); break;
    case TimeType::f64: v.f64 = s.toDouble(); break;
    default: v.f32 = float(s.toDouble());
  }
  return v;
}

// The kernels take any batch and row stride, but columns (and stamps) side by side.
Tensor with_unit_stride(const Tensor& x) { return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous(); }

void check_offsets(const Tensor& offsets, const Tensor& like, const char* name, int64_t m) {
  TORCH_CHECK_VALUE(offsets.scalar_type() == at::kLong && offsets.dim() == 1 && offsets.size(0) >= 1,
                    "fuse: ", name, "[", m, "] must be int64 [B+1], got ", offsets.scalar_type(), " ", offsets.sizes());
  TORCH_CHECK_VALUE(offsets.device() == like.device(), "fuse: ", name, "[", m, "] is on ", offsets.device(),
                    ", the targets on ", like.device());
}

// A host tensor's offsets can be looked at for free; on a device the caller vouches for them (validate=True looks).
void check_offset_values(const Tensor& offsets, int64_t total, const char* name, int64_t m) {
  const int64_t* at = offsets.const_data_ptr<int64_t>();
  const int64_t last = offsets.size(0) - 1;
  bool sorted = at[0] == 0 && at[last] == total;
  for (int64_t b = 0; b < last; ++b) sorted &= at[b] <= at[b + 1];
  TORCH_CHECK_VALUE(sorted, "fuse: ", name, "[", m, "] must rise from 0 to ", total, ", got ", offsets);
}

// Past the dispatcher, which has found the device: two calls of it less are half a microsecond of a small call.
Tensor allocate(at::IntArrayRef shape, const at::TensorOptions& options) {
#ifdef ROBOCACHE_CUDA
  if (options.device().is_cuda()) return at::cuda::empty(shape, options);
#endif
  return at::cpu::empty(shape, options);
}

// Everything that the kernels' structs point to, kept alive until the launch is queued.
struct Call {
  std::vector<Stream> streams;
  Targets targets;
  Output output;
  TimeType time;
  Tensor out, valid;
  std::vector<Tensor> held;

  const Tensor& hold(Tensor x) {
    held.push_back(std::move(x));
    return held.back();
  }
};

Call prepare(at::TensorList values, at::TensorList times, const OptionalTensors& offsets, at::IntArrayRef modes,
             at::ArrayRef<at::Scalar> max_gaps, at::ArrayRef<at::Scalar> shifts, const Tensor& targets,
             const std::optional<Tensor>& target_offsets, at::ScalarType out_dtype,
             const std::optional<Tensor>& out_scale) {
  const int64_t count = int64_t(values.size());
  TORCH_CHECK_VALUE(count > 0, "fuse: no streams");
  TORCH_CHECK_VALUE(int64_t(times.size()) == count && int64_t(offsets.size()) == count &&
                        int64_t(modes.size()) == count && int64_t(max_gaps.size()) == count &&
                        int64_t(shifts.size()) == count,
                    "fuse: ", count, " values, ", times.size(), " times, ", offsets.size(), " offsets, ", modes.size(),
                    " modes, ", max_gaps.size(), " max_gaps, ", shifts.size(), " shifts; one of each a stream");
  Call call;
  call.held.reserve(size_t(4 * count + 4));
  call.time = time_type(targets);
  const bool jagged = target_offsets.has_value();
  TORCH_CHECK_VALUE(targets.dim() == (jagged ? 1 : 2), "fuse: target times must be ",
                    jagged ? "[K] with target_offsets" : "[B, T]", ", got ", targets.sizes());
  const Tensor& target = call.hold(with_unit_stride(targets));
  if (jagged) check_offsets(*target_offsets, targets, "target_offsets", 0);
  const int64_t batch = jagged ? target_offsets->size(0) - 1 : target.size(0);
  call.targets = {target.const_data_ptr(), nullptr, jagged ? 0 : target.stride(0), jagged ? 0 : target.size(1), batch,
                  target.numel()};
  if (jagged) {
    const Tensor& o = call.hold(target_offsets->contiguous());
    if (o.is_cpu()) check_offset_values(o, target.numel(), "target_offsets", 0);
    call.targets.offsets = o.const_data_ptr<int64_t>();
  }

  int64_t column = 0;
  for (int64_t m = 0; m < count; ++m) {
    const std::optional<Tensor> offset = offsets.get(size_t(m));
    const Tensor& x = call.hold(with_unit_stride(values[size_t(m)]));
    const Tensor& t = call.hold(with_unit_stride(times[size_t(m)]));
    const int64_t lead = offset ? 1 : 2;  // dimensions before the columns
    TORCH_CHECK_VALUE(x.dim() == lead + 1 && t.dim() == lead && x.sizes().slice(0, size_t(lead)) == t.sizes(),
                      "fuse: values[", m, "] ", x.sizes(), " and times[", m, "] ", t.sizes(), " must be ",
                      offset ? "[N, D] and [N] with offsets" : "[B, S, D] and [B, S]");
    TORCH_CHECK_VALUE(t.scalar_type() == targets.scalar_type(), "fuse: times[", m, "] are ", t.scalar_type(),
                      ", target times ", targets.scalar_type(), "; use one dtype");
    TORCH_CHECK_VALUE(x.device() == targets.device() && t.device() == targets.device(), "fuse: values[", m, "] on ",
                      x.device(), ", times[", m, "] on ", t.device(), ", targets on ", targets.device());
    TORCH_CHECK_VALUE(modes[size_t(m)] >= 0 && modes[size_t(m)] < kModes, "fuse: modes[", m, "] = ", modes[size_t(m)]);
    if (offset) check_offsets(*offset, targets, "offsets", m);
    const int64_t episodes = offset ? offset->size(0) - 1 : x.size(0);
    TORCH_CHECK_VALUE(episodes == batch, "fuse: values[", m, "] hold ", episodes, " episodes, the targets ", batch);

    Stream s;
    s.dim = x.size(-1);
    s.mode = Mode(modes[size_t(m)]);
    const int64_t needs = s.mode == Mode::slerp ? 4 : s.mode == Mode::pose ? 7 : s.dim;
    TORCH_CHECK_VALUE(s.dim == needs, "fuse: values[", m, "] ", x.sizes(), ": mode ",
                      s.mode == Mode::slerp ? "slerp takes 4 columns (a quaternion)"
                                            : "pose takes 7 columns (xyz and a quaternion)");
    s.values = x.const_data_ptr();
    s.times = t.const_data_ptr();
    s.offsets = nullptr;
    if (offset) {
      const Tensor& o = call.hold(offset->contiguous());
      if (o.is_cpu()) check_offset_values(o, x.size(0), "offsets", m);
      s.offsets = o.const_data_ptr<int64_t>();
    }
    s.value_batch_stride = offset ? 0 : x.stride(0);
    s.value_row_stride = x.stride(-2);
    s.time_batch_stride = offset ? 0 : t.stride(0);
    s.length = x.size(-2);
    s.column = column;
    s.max_gap = time_value(call.time, max_gaps[size_t(m)]);
    s.shift = time_value(call.time, shifts[size_t(m)]);
    s.dtype = value_dtype(x, m);
    column += s.dim;
    call.streams.push_back(s);
  }

  std::vector<int64_t> shape = targets.sizes().vec();
  shape.push_back(column);
  call.out = allocate(shape, targets.options().dtype(out_dtype));
  shape.back() = count;
  call.valid = allocate(shape, targets.options().dtype(at::kBool));
  call.output = {call.out.mutable_data_ptr(), call.valid.mutable_data_ptr<bool>(), nullptr, column, count,
                 output_dtype(out_dtype)};
  if (out_scale) {
    TORCH_CHECK_VALUE(call.output.dtype >= DType::e4m3, "fuse: out_scale needs an 8-bit out_dtype, got ", out_dtype);
    TORCH_CHECK_VALUE(out_scale->scalar_type() == at::kFloat && out_scale->dim() == 1 && out_scale->size(0) == column &&
                          out_scale->device() == targets.device(),
                      "fuse: out_scale must be float32 [", column, "] on ", targets.device(), ", got ",
                      out_scale->scalar_type(), " ", out_scale->sizes(), " on ", out_scale->device());
    call.output.scale = call.hold(out_scale->contiguous()).const_data_ptr<float>();
  }
  return call;
}

std::tuple<Tensor, Tensor> fuse_cpu(at::TensorList values, at::TensorList times, const OptionalTensors& offsets,
                                    at::IntArrayRef modes, at::ArrayRef<at::Scalar> max_gaps,
                                    at::ArrayRef<at::Scalar> shifts, const Tensor& targets,
                                    const std::optional<Tensor>& target_offsets, at::ScalarType out_dtype,
                                    const std::optional<Tensor>& out_scale) {
  Call call = prepare(values, times, offsets, modes, max_gaps, shifts, targets, target_offsets, out_dtype, out_scale);
  const int64_t rows = call.targets.rows, piece = std::max<int64_t>(kPiece / std::max<int64_t>(call.output.width, 1), 64);
  in_threads((rows + piece - 1) / piece, [&](int64_t p) {
    cpu::fuse_rows(call.time, call.streams.data(), call.targets, call.output, p * piece, std::min(rows, (p + 1) * piece));
  });
  return {call.out, call.valid};
}

#ifdef ROBOCACHE_CUDA
std::tuple<Tensor, Tensor> fuse_cuda(at::TensorList values, at::TensorList times, const OptionalTensors& offsets,
                                     at::IntArrayRef modes, at::ArrayRef<at::Scalar> max_gaps,
                                     at::ArrayRef<at::Scalar> shifts, const Tensor& targets,
                                     const std::optional<Tensor>& target_offsets, at::ScalarType out_dtype,
                                     const std::optional<Tensor>& out_scale) {
  const c10::cuda::CUDAGuard guard(targets.device());
  Call call = prepare(values, times, offsets, modes, max_gaps, shifts, targets, target_offsets, out_dtype, out_scale);
  TORCH_CHECK_VALUE(call.targets.batch < INT_MAX, "fuse: ", call.targets.batch, " episodes; on a GPU below 2^31 - 1");
  cuda::fuse(call.time, call.streams.data(), call.targets, call.output,
             c10::cuda::getCurrentCUDAStream(targets.get_device()).stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {call.out, call.valid};
}
#endif

// The first (row, position) at which a host tensor of times [B, S], or jagged [N] with offsets, steps back: {-1, -1} if
// none does.
std::tuple<int64_t, int64_t> first_unsorted(const Tensor& times, const std::optional<Tensor>& offsets) {
  const TimeType type = time_type(times);
  TORCH_CHECK_VALUE(times.is_cpu() && times.dim() == (offsets ? 1 : 2), "first_unsorted: host times [B, S], or [N] with "
                    "offsets, got ", times.sizes(), " on ", times.device());
  const Tensor t = with_unit_stride(times);
  if (offsets) {
    check_offsets(*offsets, times, "offsets", 0);
    check_offset_values(*offsets, t.size(0), "offsets", 0);
  }
  const int64_t* o = offsets ? offsets->const_data_ptr<int64_t>() : nullptr;
  const int64_t rows = offsets ? offsets->size(0) - 1 : t.size(0);
  const auto look = [&](int64_t b) {
    const int64_t start = o ? o[b] : b * t.stride(0), length = o ? o[b + 1] - o[b] : t.size(1);
    const auto* first = static_cast<const char*>(t.const_data_ptr()) + start * t.element_size();
    return cpu::first_unsorted(type, first, length);
  };
  std::atomic<int64_t> worst{rows};  // the first row that is not sorted
  const int64_t together = rows * kPiece / std::max<int64_t>(t.numel(), 1) + 1;  // rows that make a piece
  in_threads((rows + together - 1) / together, [&](int64_t p) {
    for (int64_t b = p * together; b < std::min(rows, (p + 1) * together); ++b) {
      if (b >= worst || look(b) < 0) continue;
      for (int64_t seen = worst; b < seen && !worst.compare_exchange_weak(seen, b);) {
      }
      return;
    }
  });
  const int64_t row = worst;
  return row < rows ? std::make_tuple(row, look(row)) : std::make_tuple(int64_t(-1), int64_t(-1));
}

std::string instruction_set() { return cpu::instruction_set(); }

}  // namespace
}  // namespace robocache

TORCH_LIBRARY(robocache, m) {
  m.def(
      "fuse(Tensor[] values, Tensor[] times, Tensor?[] offsets, int[] modes, Scalar[] max_gaps, Scalar[] shifts, "
      "Tensor targets, Tensor? target_offsets, ScalarType out_dtype, Tensor? out_scale) -> (Tensor, Tensor)");
  m.def("first_unsorted(Tensor times, Tensor? offsets) -> (int, int)");
  m.def("instruction_set() -> str", &robocache::instruction_set);
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("fuse", &robocache::fuse_cpu);
  m.impl("first_unsorted", &robocache::first_unsorted);
}
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { m.impl("fuse", &robocache::fuse_cuda); }
#endif
// Nothing here has a gradient: the results never require one. torch's own fallback, which says so when somebody asks for
// it, packs all arguments into boxes and out again at each call.
TORCH_LIBRARY_IMPL(robocache, Autograd, m) { m.impl("fuse", torch::CppFunction::makeFallthrough()); }
