// robocache::gather_windows.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <cstring>
#include <numeric>

#include "bindings/common.h"
#include "cpu/threads.h"
#include "cpu/window/gather.h"
#define RC_ISA isa_baseline
#include "robocache/window/gather.h"
#ifdef ROBOCACHE_CUDA
#include "cuda/window/gather.h"
#endif

namespace robocache {
namespace {

using window::Column;
using window::Rows;

constexpr const char* kOp = "gather_windows";
constexpr int64_t kMost = int64_t(1) << 31;

// The widest access that rows of so many bytes allow, and what they begin at.
int32_t unit_of(int64_t bytes, const void* at) {
  return int32_t(std::gcd(std::gcd(bytes, int64_t(16)), int64_t(reinterpret_cast<uintptr_t>(at) % 16 + 16)));
}

// 16 bytes of `value` as numbers of the type.
void fill_with(double value, at::ScalarType type, char* out) {
  const auto repeat = [&](auto number) {
    for (size_t b = 0; b < 16; b += sizeof number) std::memcpy(out + b, &number, sizeof number);
  };
  switch (type) {
    case at::kDouble: return repeat(value);
    case at::kFloat: return repeat(float(value));
    case at::kHalf: return repeat(at::Half(float(value)));
    case at::kBFloat16: return repeat(at::BFloat16(float(value)));
    case at::kBool: return repeat(uint8_t(value != 0));
    default:
      TORCH_CHECK_VALUE(value == 0, kOp, ": a fill of ", value, " for a table of ", type, "; only 0 fits");
      return repeat(uint8_t(0));
  }
}

std::vector<Tensor> gather_windows(at::TensorList tables, at::ArrayRef<int64_t> of, const c10::List<bool>& filled,
                                   at::ArrayRef<double> fills, at::TensorList steps, const c10::List<bool>& runs,
                                   const Tensor& rows, const Tensor& bounds) {
  const int64_t count = int64_t(tables.size()), kinds = int64_t(steps.size());
  TORCH_CHECK_VALUE(int64_t(of.size()) == count && int64_t(filled.size()) == count && int64_t(fills.size()) == count &&
                        int64_t(runs.size()) == kinds,
                    kOp, ": ", count, " tables and ", kinds, " windows, but of, filled, fills and runs have ",
                    of.size(), ", ", filled.size(), ", ", fills.size(), " and ", runs.size());
  TORCH_CHECK_VALUE(rows.scalar_type() == at::kLong && rows.dim() == 1, kOp, ": rows must be int64 [B], got ",
                    rows.scalar_type(), " ", rows.sizes());
  TORCH_CHECK_VALUE(bounds.scalar_type() == at::kInt && bounds.dim() == 2 && bounds.size(1) == 2, kOp,
                    ": bounds must be int32 [N, 2], got ", bounds.scalar_type(), " ", bounds.sizes());
  TORCH_CHECK_VALUE(bounds.device() == rows.device(), kOp, ": bounds are on ", bounds.device(), ", rows on ",
                    rows.device());
  const Tensor own = rows.contiguous(), edges = bounds.contiguous();
  const Rows all{own.const_data_ptr<int64_t>(), edges.const_data_ptr<int32_t>(), own.size(0), edges.size(0)};
  TORCH_CHECK_VALUE(all.rows > 0 || all.windows == 0, kOp, ": there are no rows");
  std::vector<Tensor> out, held;
  std::vector<Column> columns;
  for (int64_t i = 0; i < count; ++i) {
    const Argument argument{kOp, "tables", i};
    const Tensor table = tables[i].contiguous();
    TORCH_CHECK_VALUE(table.dim() >= 1 && table.size(0) == all.rows, argument, " must be [", all.rows, ", ...], got ",
                      table.sizes());
    TORCH_CHECK_VALUE(0 <= of[i] && of[i] < kinds, kOp, ": of[", i, "] is ", of[i], "; there are ", kinds, " windows");
    TORCH_CHECK_VALUE(table.device() == rows.device(), argument, " is on ", table.device(), ", rows on ",
                      rows.device());
    std::vector<int64_t> shape{all.windows, steps[of[i]].size(0)};
    shape.insert(shape.end(), table.sizes().begin() + 1, table.sizes().end());
    out.push_back(allocate(shape, table.options()));
    const int64_t bytes = all.rows == 0 ? 0 : int64_t(table.nbytes()) / all.rows;
    Column column{};
    column.from = static_cast<const char*>(table.const_data_ptr());
    column.to = static_cast<char*>(out.back().mutable_data_ptr());
    column.unit = unit_of(bytes, column.from);
    TORCH_CHECK_VALUE(bytes / column.unit * shape[1] < kMost, argument, ": a window of ", bytes * shape[1],
                      " bytes is too large");
    column.units = int32_t(bytes / column.unit);
    column.filled = filled[i];
    if (column.filled) fill_with(fills[i], table.scalar_type(), column.fill);
    columns.push_back(column);
    held.push_back(table);
  }
  for (int64_t w = 0; w < kinds; ++w) {
    TORCH_CHECK_VALUE(steps[w].scalar_type() == at::kInt && steps[w].dim() == 1 && steps[w].size(0) >= 1 &&
                          steps[w].device() == rows.device(),
                      Argument{kOp, "steps", w}, " must be int32 [K] beside rows, got ", steps[w].scalar_type(), " ",
                      steps[w].sizes(), " on ", steps[w].device());
    held.push_back(steps[w].contiguous());
    out.push_back(allocate({all.windows, steps[w].size(0)}, rows.options().dtype(at::kBool)));
    Column column{};
    column.to = static_cast<char*>(out.back().mutable_data_ptr()), column.units = 1, column.unit = 1;
    columns.push_back(column);
  }
  int64_t units = 0;
  for (int64_t i = 0; i < count + kinds; ++i) {
    const int64_t w = i < count ? of[i] : i - count;
    columns[i].steps = held[count + w].const_data_ptr<int32_t>();
    columns[i].count = int32_t(held[count + w].size(0));
    columns[i].run = runs[w];
    units += int64_t(columns[i].units) * columns[i].count;
  }
  if (all.windows == 0) return out;
  TORCH_CHECK_VALUE(units < (int64_t(1) << 36) / all.windows, kOp, ": ", all.windows, " windows are too many at once");
#ifdef ROBOCACHE_CUDA
  if (rows.is_cuda()) {
    on_device(rows.device(),
              [&](auto stream) { cuda::gather_windows(columns.data(), int(columns.size()), all, stream); });
    return out;
  }
#endif
  for (const Column& column : columns) {
    if (column.units == 0) continue;
    const int64_t piece = std::max<int64_t>(1, cpu::kPiece / (int64_t(column.units) * column.count));
    cpu::in_threads((all.windows + piece - 1) / piece, at::get_num_threads(), [&](int64_t p) {
      cpu::gather_windows(column, all, p * piece, std::min(all.windows, (p + 1) * piece));
    });
  }
  return out;
}

}  // namespace
}  // namespace robocache

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "gather_windows(Tensor[] tables, int[] of, bool[] filled, float[] fills, Tensor[] steps, bool[] runs, "
      "Tensor rows, Tensor bounds) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) { m.impl("gather_windows", &robocache::gather_windows); }
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { m.impl("gather_windows", &robocache::gather_windows); }
#endif
TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("gather_windows", torch::autograd::autogradNotImplementedFallback());
}
