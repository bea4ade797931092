// The operators of alignment: checks the tensors, fills the kernels' plain structs, registers.
#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <limits>
#include <vector>

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include "bindings/python.h"

#define RC_ISA isa_baseline
#include "cpu/align/fuse.h"
#include "cpu/threads.h"
#include "robocache/geometry/angle.h"
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

// A number in the times' dtype. One that would lose its meaning in it is refused: 0.05 as nanoseconds.
TimeValue time_value(TimeType type, const at::Scalar& s, const Argument& argument) {
  TimeValue v;
  if (type == TimeType::i64) {
    TORCH_CHECK_VALUE(s.isIntegral(false), argument, " is ", s,
                      "; with int64 times it is a whole number of their unit");
    v.i64 = s.toLong();
    return v;
  }
  const double x = s.toDouble();
  TORCH_CHECK_VALUE(std::isfinite(x), argument, " is ", x, "; it must be finite");
  if (type == TimeType::f64) {
    v.f64 = x;
  } else {
    v.f32 = float(x);
  }
  return v;
}

// As the kernels take it: where there is none, the largest there is.
TimeValue limit_value(TimeType type, const at::Scalar& s, const Argument& argument) {
  const bool none = s.isFloatingPoint() ? s.toDouble() < 0 : s.toLong() < 0;
  if (!none) return time_value(type, s, argument);
  TimeValue v;
  switch (type) {
    case TimeType::i64: v.i64 = std::numeric_limits<int64_t>::max(); break;
    case TimeType::f64: v.f64 = std::numeric_limits<double>::max(); break;
    default: v.f32 = std::numeric_limits<float>::max();
  }
  return v;
}

using Result = std::tuple<Tensor, Tensor>;

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

// The operator's arguments, in the order of its schema.
struct Arguments {
  at::TensorList values, times;
  const OptionalTensors& offsets;
  at::IntArrayRef modes;
  at::ArrayRef<at::Scalar> max_gaps, shifts;
  at::ArrayRef<double> periods;
  const Tensor& targets;
  const std::optional<Tensor>& target_offsets;
  at::ScalarType out_dtype;
  const std::optional<Tensor>& out_scale;

  template <Result (*run)(const Arguments&)>
  static Result kernel(at::TensorList values, at::TensorList times, const OptionalTensors& offsets,
                       at::IntArrayRef modes, at::ArrayRef<at::Scalar> max_gaps, at::ArrayRef<at::Scalar> shifts,
                       at::ArrayRef<double> periods, const Tensor& targets, const std::optional<Tensor>& target_offsets,
                       at::ScalarType out_dtype, const std::optional<Tensor>& out_scale) {
    return run(
        {values, times, offsets, modes, max_gaps, shifts, periods, targets, target_offsets, out_dtype, out_scale});
  }
  // The operator again, through the dispatcher.
  template <class Operator> Result call(const Operator& op) const {
    return op.call(values, times, offsets, modes, max_gaps, shifts, periods, targets, target_offsets, out_dtype,
                   out_scale);
  }
};

template <class A> void keep_turn(double period, double (&kept)[3]) {
  const auto turn = Turn<A>::of(period);
  kept[0] = turn.high;
  kept[1] = turn.low;
  kept[2] = turn.inverse;
}

// Stream m, its column left open.
Stream stream_of(const Arguments& a, int64_t m, int64_t batch, Call& call) {
  const std::optional<Tensor> offset = a.offsets.get(size_t(m));
  const Tensor& x = call.hold(with_unit_stride(a.values[size_t(m)]));
  const Tensor& t = call.hold(with_unit_stride(a.times[size_t(m)]));
  const int64_t lead = offset ? 1 : 2;  // dimensions before the columns
  TORCH_CHECK_VALUE(x.dim() == lead + 1 && t.dim() == lead && x.sizes().slice(0, size_t(lead)) == t.sizes(),
                    "fuse: values[", m, "] ", x.sizes(), " and times[", m, "] ", t.sizes(), " must be ",
                    offset ? "[N, D] and [N] with offsets" : "[B, S, D] and [B, S]");
  TORCH_CHECK_VALUE(t.scalar_type() == a.targets.scalar_type(), "fuse: times[", m, "] are ", t.scalar_type(),
                    ", target times ", a.targets.scalar_type(), "; use one dtype");
  TORCH_CHECK_VALUE(x.device() == a.targets.device() && t.device() == a.targets.device(), "fuse: values[", m, "] on ",
                    x.device(), ", times[", m, "] on ", t.device(), ", targets on ", a.targets.device());
  TORCH_CHECK_VALUE(a.modes[size_t(m)] >= 0 && a.modes[size_t(m)] < kModes, "fuse: modes[", m,
                    "] = ", a.modes[size_t(m)]);
  const Argument offsets_m{"fuse", "offsets", m};
  const int64_t* o =
      !offset ? nullptr
              : call.hold(checked_offsets(*offset, x.size(0), a.targets.device(), offsets_m)).const_data_ptr<int64_t>();
  const int64_t episodes = offset ? offset->size(0) - 1 : x.size(0);
  TORCH_CHECK_VALUE(episodes == batch, "fuse: values[", m, "] hold ", episodes, " episodes, the targets ", batch);

  Stream s;
  s.dim = x.size(-1);
  s.mode = Mode(a.modes[size_t(m)]);
  const int64_t columns = columns_of(s.mode);
  TORCH_CHECK_VALUE(
      columns == 0 || s.dim == columns, "fuse: values[", m, "] ", x.sizes(), ": mode ",
      columns == 4 ? "slerp takes 4 columns (a quaternion)" : "pose takes 7 columns (xyz and a quaternion)");
  s.values = x.const_data_ptr();
  s.times = t.const_data_ptr();
  s.offsets = o;
  s.value_batch_stride = offset ? 0 : x.stride(0);
  s.value_row_stride = x.stride(-2);
  s.time_batch_stride = offset ? 0 : t.stride(0);
  s.length = x.size(-2);
  s.max_gap = limit_value(call.time, a.max_gaps[size_t(m)], {"fuse", "max_gaps", m});
  s.shift = time_value(call.time, a.shifts[size_t(m)], {"fuse", "shifts", m});
  const double period = a.periods[size_t(m)];
  const bool round = s.mode == Mode::angle || s.mode == Mode::mean;
  TORCH_CHECK_VALUE(
      std::isfinite(period) && (s.mode == Mode::angle ? period > 0 : period >= 0) && (period == 0 || round),
      "fuse: periods[", m, "] is ", period, "; it must be above 0 for angle, or for a circular mean, else 0");
  if (s.mode == Mode::mean && period > 0) s.mode = Mode::circular_mean;
  s.dtype = value_dtype(x, {"fuse", "values", m});
  s.dtype == DType::f64 ? keep_turn<double>(period, s.turn) : keep_turn<float>(period, s.turn);
  return s;
}

Call prepare(const Arguments& a) {
  const int64_t count = int64_t(a.values.size());
  TORCH_CHECK_VALUE(count > 0, "fuse: no streams");
  TORCH_CHECK_VALUE(int64_t(a.times.size()) == count && int64_t(a.offsets.size()) == count &&
                        int64_t(a.modes.size()) == count && int64_t(a.max_gaps.size()) == count &&
                        int64_t(a.shifts.size()) == count && int64_t(a.periods.size()) == count,
                    "fuse: ", count, " values, ", a.times.size(), " times, ", a.offsets.size(), " offsets, ",
                    a.modes.size(), " modes, ", a.max_gaps.size(), " max_gaps, ", a.shifts.size(), " shifts, ",
                    a.periods.size(), " periods; one of each a stream");
  Call call;
  call.held.reserve(size_t(4 * count + 4));
  call.time = time_type(a.targets);
  const bool jagged = a.target_offsets.has_value();
  TORCH_CHECK_VALUE(a.targets.dim() == (jagged ? 1 : 2), "fuse: target times must be ",
                    jagged ? "[K] with target_offsets" : "[B, T]", ", got ", a.targets.sizes());
  const Tensor& target = call.hold(with_unit_stride(a.targets));
  const int64_t* target_offset = nullptr;
  if (jagged) {
    const Argument argument{"fuse", "target_offsets"};
    target_offset = call.hold(checked_offsets(*a.target_offsets, target.numel(), a.targets.device(), argument))
                        .const_data_ptr<int64_t>();
  }
  const int64_t batch = jagged ? a.target_offsets->size(0) - 1 : target.size(0);
  call.targets = {target.const_data_ptr(),     target_offset, jagged ? 0 : target.stride(0),
                  jagged ? 0 : target.size(1), batch,         target.numel()};

  int64_t column = 0;
  for (int64_t m = 0; m < count; ++m) {
    Stream s = stream_of(a, m, batch, call);
    s.column = column;
    column += s.dim;
    call.streams.push_back(s);
  }

  std::vector<int64_t> shape = a.targets.sizes().vec();
  shape.push_back(column);
  call.out = allocate(shape, a.targets.options().dtype(a.out_dtype));
  shape.back() = count;
  call.valid = allocate(shape, a.targets.options().dtype(at::kBool));
  call.output = {call.out.mutable_data_ptr(),      call.valid.mutable_data_ptr<bool>(), nullptr, column, count,
                 output_dtype(a.out_dtype, "fuse")};
  if (a.out_scale) {
    TORCH_CHECK_VALUE(call.output.dtype >= DType::e4m3, "fuse: out_scale needs an 8-bit out_dtype, got ", a.out_dtype);
    TORCH_CHECK_VALUE(a.out_scale->scalar_type() == at::kFloat && a.out_scale->dim() == 1 &&
                          a.out_scale->size(0) == column && a.out_scale->device() == a.targets.device(),
                      "fuse: out_scale must be float32 [", column, "] on ", a.targets.device(), ", got ",
                      a.out_scale->scalar_type(), " ", a.out_scale->sizes(), " on ", a.out_scale->device());
    call.output.scale = call.hold(a.out_scale->contiguous()).const_data_ptr<float>();
  }
  return call;
}

Result run_on_cpu(const Arguments& a) {
  const Call call = prepare(a);
  const int64_t rows = call.targets.rows;
  const int64_t piece = std::max<int64_t>(cpu::kPiece / std::max<int64_t>(call.output.width, 1), 64);
  cpu::in_threads((rows + piece - 1) / piece, at::get_num_threads(), [&](int64_t p) {
    const int64_t begin = p * piece, end = std::min(rows, begin + piece);
    cpu::fuse_rows(call.time, call.streams.data(), call.targets, call.output, begin, end);
  });
  return {call.out, call.valid};
}

#ifdef ROBOCACHE_CUDA
Result run_on_cuda(const Arguments& a) {
  const Call call = prepare(a);
  TORCH_CHECK_VALUE(call.targets.batch < INT_MAX, "fuse: ", call.targets.batch, " episodes; on a GPU below 2^31 - 1");
  constexpr int64_t kWidest = 1 << 26;  // 32 rows of a tile, counted in 31 bits
  TORCH_CHECK_VALUE(call.output.width < kWidest, "fuse: ", call.output.width, " columns; on a GPU below 2^26");
  on_device(call.out.device(), [&](cudaStream_t stream) {
    cuda::fuse(call.time, call.streams.data(), call.targets, call.output, stream);
  });
  return {call.out, call.valid};
}
#endif

// ---- gradients by the values ----------------------------------------------------------------------------------------

template <class Signature> auto operator_of(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

using Backward = std::vector<Tensor>(const Tensor& grad, at::TensorList values, at::IntArrayRef wanted,
                                     at::TensorList times, const OptionalTensors& offsets, at::IntArrayRef modes,
                                     at::ArrayRef<at::Scalar> shifts, const Tensor& targets,
                                     const std::optional<Tensor>& target_offsets);

Result with_gradient(const Arguments& a);
auto fuse_operator() {
  using Signature = std::remove_pointer_t<decltype(&Arguments::kernel<with_gradient>)>;
  static const auto op = operator_of<Signature>("robocache::fuse");
  return op;
}

// A call that is kept for its backward, which robocache::fuse_backward computes.
struct Differentiable : torch::autograd::Function<Differentiable> {
  using Context = torch::autograd::AutogradContext;
  using Tensors = torch::autograd::variable_list;

  static Tensors forward(Context* context, at::TensorList values, const Arguments& a) {
    Tensors saved(values.begin(), values.end());
    saved.insert(saved.end(), a.times.begin(), a.times.end());
    for (size_t m = 0; m < values.size(); ++m) saved.push_back(a.offsets.get(m).value_or(Tensor()));
    saved.push_back(a.targets);
    saved.push_back(a.target_offsets.value_or(Tensor()));
    context->save_for_backward(std::move(saved));
    context->saved_data["modes"] = a.modes.vec();
    c10::impl::GenericList shifts(c10::AnyType::get());
    for (const at::Scalar& shift : a.shifts) shifts.push_back(shift);
    context->saved_data["shifts"] = shifts;
    const auto [out, valid] = a.call(fuse_operator());  // gradients are off in here
    context->mark_non_differentiable({valid});
    return {out, valid};
  }

  static Tensors backward(Context* context, Tensors grads) {
    const Tensors saved = context->get_saved_variables();
    const size_t count = (saved.size() - 2) / 3;
    const at::TensorList all(saved);
    const auto given = [](const Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; };
    OptionalTensors offsets;
    std::vector<at::Scalar> shifts;
    std::vector<int64_t> wanted;
    for (size_t m = 0; m < count; ++m) {
      offsets.push_back(given(saved[2 * count + m]));
      shifts.push_back(context->saved_data["shifts"].toListRef()[m].toScalar());
      if (context->needs_input_grad(m)) wanted.push_back(int64_t(m));
    }
    Tensors found(count + 1);  // by each of forward()'s values, and none by its other argument
    if (!grads[0].defined()) return found;
    static const auto op = operator_of<Backward>("robocache::fuse_backward");
    std::vector<Tensor> gradients =
        op.call(grads[0], all.slice(0, count), wanted, all.slice(count, count), offsets,
                context->saved_data["modes"].toIntVector(), shifts, saved[3 * count], given(saved[3 * count + 1]));
    for (size_t k = 0; k < wanted.size(); ++k) found[size_t(wanted[k])] = std::move(gradients[k]);
    return found;
  }
};

// The operator above the devices' kernels: a gradient is right, or refused. Of inputs that require none nothing is
// kept.
Result with_gradient(const Arguments& a) {
  bool by_values = false, by_times = a.targets.requires_grad();
  for (size_t m = 0; m < a.values.size(); ++m) {
    TORCH_CHECK_NOT_IMPLEMENTED(!torch::autograd::isFwGradDefined(a.values[m]), "fuse: values[", m,
                                "] have a forward gradient; only backward is known");
    by_values |= a.values[m].requires_grad();
    by_times |= m < a.times.size() && a.times[m].requires_grad();
  }
  if (!at::GradMode::is_enabled() || !(by_values || by_times)) {
    at::AutoDispatchBelowADInplaceOrView below;
    return a.call(fuse_operator());
  }
  TORCH_CHECK_NOT_IMPLEMENTED(!by_times, "fuse: times require a gradient, which only values have; detach() them");
  TORCH_CHECK_NOT_IMPLEMENTED(c10::isFloatingType(a.out_dtype) && c10::elementSize(a.out_dtype) > 1,
                              "fuse: ", a.out_dtype, " has no gradient; detach() the values");
  for (size_t m = 0; m < std::min({a.values.size(), a.modes.size(), a.periods.size()}); ++m) {
    const Mode mode = a.periods[m] == 0 ? Mode(a.modes[m]) : Mode::angle;
    const bool linear = mode == Mode::linear || mode == Mode::nearest || mode == Mode::previous || mode == Mode::next ||
                        mode == Mode::mean;
    TORCH_CHECK_NOT_IMPLEMENTED(linear || !a.values[m].requires_grad(), "fuse: values[", m,
                                "] require a gradient, which linear, nearest, previous, next and mean have; "
                                "detach() them");
  }
  const auto results = Differentiable::apply(a.values, a);
  return {results[0], results[1]};
}

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

void def_align(pybind11::module_& module) {
  def_operator(module, "fuse", &Arguments::kernel<run_on_cpu>);
  // The same operator for one stream: no lists to convert. `valid` comes without the dimension of the streams.
  using Number = std::variant<int64_t, double>;
  const auto scalar = [](const Number& n) { return std::visit([](auto x) { return at::Scalar(x); }, n); };
  module.def(
      "resample",
      [scalar](const Tensor& values, const Tensor& times, const std::optional<Tensor>& offsets, int64_t mode,
               const Number& max_gap, const Number& shift, double period, const Tensor& targets,
               const std::optional<Tensor>& target_offsets, at::ScalarType out_dtype,
               const std::optional<Tensor>& out_scale) {
        Result result = fuse_operator().call(values, times, OptionalTensors({offsets}), mode, scalar(max_gap),
                                             scalar(shift), period, targets, target_offsets, out_dtype, out_scale);
        std::get<1>(result).squeeze_(-1);
        return result;
      },
      pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace robocache

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "fuse(Tensor[] values, Tensor[] times, Tensor?[] offsets, int[] modes, Scalar[] max_gaps, Scalar[] shifts, "
      "float[] periods, Tensor targets, Tensor? target_offsets, ScalarType out_dtype, Tensor? out_scale) -> (Tensor, "
      "Tensor)");
  m.def(
      "fuse_backward(Tensor grad, Tensor[] values, int[] wanted, Tensor[] times, Tensor?[] offsets, int[] modes, "
      "Scalar[] shifts, Tensor targets, Tensor? target_offsets) -> Tensor[]");
  m.def("first_unsorted(Tensor times, Tensor? offsets) -> (int, int)");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("fuse", &robocache::Arguments::kernel<robocache::run_on_cpu>);
  m.impl("first_unsorted", &robocache::first_unsorted);
}
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { m.impl("fuse", &robocache::Arguments::kernel<robocache::run_on_cuda>); }
#endif
TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("fuse", &robocache::Arguments::kernel<robocache::with_gradient>);
  m.impl("fuse_backward", torch::autograd::autogradNotImplementedFallback());
}
