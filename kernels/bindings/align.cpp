// The operators of alignment: checks the tensors, fills the kernels' plain structs, registers.
#include <algorithm>
#include <atomic>
#include <climits>
#include <vector>

#include "bindings/python.h"
#include "cpu/align/fuse.h"
#include "cpu/threads.h"
#ifdef ROBOCACHE_CUDA
#include "cuda/align/fuse.h"
#endif

namespace robocache {
namespace {

using namespace align;

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

// One call: the kernels' structs, and everything that they point to, kept alive until the launch is queued.
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

// The operator's arguments, here and in its schema.
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
  const int64_t* target_offset = nullptr;
  if (jagged) {
    const Argument argument{"fuse", "target_offsets"};
    target_offset = call.hold(checked_offsets(*target_offsets, target.numel(), targets.device(), argument))
                        .const_data_ptr<int64_t>();
  }
  const int64_t batch = jagged ? target_offsets->size(0) - 1 : target.size(0);
  call.targets = {target.const_data_ptr(),     target_offset, jagged ? 0 : target.stride(0),
                  jagged ? 0 : target.size(1), batch,         target.numel()};

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
    const Argument offsets_m{"fuse", "offsets", m};
    const int64_t* o =
        !offset ? nullptr
                : call.hold(checked_offsets(*offset, x.size(0), targets.device(), offsets_m)).const_data_ptr<int64_t>();
    const int64_t episodes = offset ? offset->size(0) - 1 : x.size(0);
    TORCH_CHECK_VALUE(episodes == batch, "fuse: values[", m, "] hold ", episodes, " episodes, the targets ", batch);

    Stream s;
    s.dim = x.size(-1);
    s.mode = Mode(modes[size_t(m)]);
    const int64_t columns = columns_of(s.mode);
    TORCH_CHECK_VALUE(columns == 0 || s.dim == columns, "fuse: values[", m, "] ", x.sizes(), ": mode ",
                      columns == 4 ? "slerp takes 4 columns (a quaternion)"
                                   : "pose takes 7 columns (xyz and a quaternion)");
    s.values = x.const_data_ptr();
    s.times = t.const_data_ptr();
    s.offsets = o;
    s.value_batch_stride = offset ? 0 : x.stride(0);
    s.value_row_stride = x.stride(-2);
    s.time_batch_stride = offset ? 0 : t.stride(0);
    s.length = x.size(-2);
    s.column = column;
    s.max_gap = time_value(call.time, max_gaps[size_t(m)]);
    s.shift = time_value(call.time, shifts[size_t(m)]);
    s.dtype = value_dtype(x, {"fuse", "values", m});
    column += s.dim;
    call.streams.push_back(s);
  }

  std::vector<int64_t> shape = targets.sizes().vec();
  shape.push_back(column);
  call.out = allocate(shape, targets.options().dtype(out_dtype));
  shape.back() = count;
  call.valid = allocate(shape, targets.options().dtype(at::kBool));
  call.output = {call.out.mutable_data_ptr(),    call.valid.mutable_data_ptr<bool>(), nullptr, column, count,
                 output_dtype(out_dtype, "fuse")};
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

void run_on_cpu(const Call& call) {
  const int64_t rows = call.targets.rows;
  const int64_t piece = std::max<int64_t>(cpu::kPiece / std::max<int64_t>(call.output.width, 1), 64);
  cpu::in_threads((rows + piece - 1) / piece, at::get_num_threads(), [&](int64_t p) {
    const int64_t begin = p * piece, end = std::min(rows, begin + piece);
    cpu::fuse_rows(call.time, call.streams.data(), call.targets, call.output, begin, end);
  });
}

#ifdef ROBOCACHE_CUDA
void run_on_cuda(const Call& call) {
  TORCH_CHECK_VALUE(call.targets.batch < INT_MAX, "fuse: ", call.targets.batch, " episodes; on a GPU below 2^31 - 1");
  on_device(call.out.device(), [&](cudaStream_t stream) {
    cuda::fuse(call.time, call.streams.data(), call.targets, call.output, stream);
  });
}
#endif

// The operator's kernel for one device, of prepare()'s arguments.
template <void (*run)(const Call&), class = decltype(prepare)> struct Fuse;
template <void (*run)(const Call&), class... Arguments> struct Fuse<run, Call(Arguments...)> {
  static std::tuple<Tensor, Tensor> kernel(Arguments... arguments) {
    const Call call = prepare(arguments...);
    run(call);
    return {call.out, call.valid};
  }
};

// The first (row, position) at which a host tensor of times [B, S], or jagged [N] with offsets, steps back: {-1, -1} if
// none does.
std::tuple<int64_t, int64_t> first_unsorted(const Tensor& times, const std::optional<Tensor>& offsets) {
  const TimeType type = time_type(times);
  TORCH_CHECK_VALUE(times.is_cpu() && times.dim() == (offsets ? 1 : 2),
                    "first_unsorted: host times [B, S], or [N] with "
                    "offsets, got ",
                    times.sizes(), " on ", times.device());
  const Tensor t = with_unit_stride(times);
  Tensor held;
  if (offsets) held = checked_offsets(*offsets, t.size(0), times.device(), {"first_unsorted", "offsets"});
  const int64_t* o = offsets ? held.const_data_ptr<int64_t>() : nullptr;
  const int64_t rows = offsets ? offsets->size(0) - 1 : t.size(0);
  const auto look = [&](int64_t b) {
    const int64_t start = o ? o[b] : b * t.stride(0), length = o ? o[b + 1] - o[b] : t.size(1);
    const auto* first = static_cast<const char*>(t.const_data_ptr()) + start * t.element_size();
    return cpu::first_unsorted(type, first, length);
  };
  std::atomic<int64_t> worst{rows};  // the first row that is not sorted
  const int64_t together = rows * cpu::kPiece / std::max<int64_t>(t.numel(), 1) + 1;  // rows that make a piece
  cpu::in_threads((rows + together - 1) / together, at::get_num_threads(), [&](int64_t p) {
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

}  // namespace

void def_align(pybind11::module_& module) { def_operator(module, "fuse", &Fuse<run_on_cpu>::kernel); }

}  // namespace robocache

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "fuse(Tensor[] values, Tensor[] times, Tensor?[] offsets, int[] modes, Scalar[] max_gaps, Scalar[] shifts, "
      "Tensor targets, Tensor? target_offsets, ScalarType out_dtype, Tensor? out_scale) -> (Tensor, Tensor)");
  m.def("first_unsorted(Tensor times, Tensor? offsets) -> (int, int)");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("fuse", &robocache::Fuse<robocache::run_on_cpu>::kernel);
  m.impl("first_unsorted", &robocache::first_unsorted);
}
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { m.impl("fuse", &robocache::Fuse<robocache::run_on_cuda>::kernel); }
#endif
// Nothing here has a gradient: the results never require one. torch's own fallback, which says so when somebody asks
// for it, packs all arguments into boxes and out again at each call.
TORCH_LIBRARY_IMPL(robocache, Autograd, m) { m.impl("fuse", torch::CppFunction::makeFallthrough()); }
