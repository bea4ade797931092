// The operators of voxels: checks the tensors, fills the kernels' plain structs, allocates, registers.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <climits>
#include <numeric>

#include "bindings/common.h"
#include "cpu/threads.h"
#include "cpu/voxel/voxelize.h"
#ifdef ROBOCACHE_CUDA
#include "cuda/voxel/voxelize.h"
#endif

namespace robocache {
namespace {

using namespace voxel;

// Results of the sparse layout, in the order of the schema.
using Sparse = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// One call: the kernels' structs, and the tensors that they point into.
struct Call {
  Tensor points_held, features_held, offsets_held;
  Points points, features;
  Grid grid;
  Reduction reduce;
  int64_t most;
  const char* op;

  at::TensorOptions of(at::ScalarType type) const { return points_held.options().dtype(type); }
  std::vector<int64_t> dense_shape() const {
    return {points.batch, grid.last - grid.first, grid.shape[1], grid.shape[2]};
  }
};

Grid grid_of(const char* op, at::ArrayRef<double> box, at::IntArrayRef shape, at::IntArrayRef slab) {
  TORCH_CHECK_VALUE(box.size() == 9 && shape.size() == 3 && slab.size() == 2, op,
                    ": a grid is nine numbers, three counts and a range, got ", box, ", ", shape, ", ", slab);
  Grid g;
  for (size_t k = 0; k < 3; ++k) {
    g.lower[k] = box[k], g.upper[k] = box[3 + k], g.size[k] = box[6 + k], g.shape[k] = shape[k];
    TORCH_CHECK_VALUE(g.lower[k] < g.upper[k] && g.size[k] > 0 && shape[k] >= 1 && shape[k] < INT_MAX, op, ": ",
                      shape[k], " voxels of ", g.size[k], " from ", g.lower[k], " to ", g.upper[k]);
  }
  g.first = slab[0], g.last = slab[1];
  TORCH_CHECK_VALUE(0 <= g.first && g.first <= g.last && g.last <= shape[0], op, ": slab ", slab, " of ", shape[0]);
  return g;
}

// The rows of a batch: [B, P, width], or [N, width] with offsets.
Points points_of(const Tensor& x, const Tensor& offsets, const Argument& argument) {
  const bool jagged = offsets.defined();
  return {{x.const_data_ptr(), jagged ? 0 : x.stride(0), x.stride(-2), x.size(-1), value_dtype(x, argument)},
          jagged ? offsets.const_data_ptr<int64_t>() : nullptr,
          jagged ? 0 : x.size(1),
          jagged ? offsets.size(0) - 1 : x.size(0),
          jagged ? x.size(0) : x.size(0) * x.size(1)};
}

void read_points(Call& call, const Tensor& points, const std::optional<Tensor>& offsets) {
  TORCH_CHECK_VALUE(points.dim() == (offsets ? 2 : 3) && points.size(-1) >= 3, call.op, ": points ", points.sizes(),
                    " must be [B, P, 3+], or [N, 3+] with offsets");
  call.points_held = with_unit_stride(points);
  if (offsets) {
    call.offsets_held = checked_offsets(*offsets, points.size(0), points.device(), {call.op, "offsets"});
  }
  call.points = points_of(call.points_held, call.offsets_held, {call.op, "points"});
}

Call prepare(const char* op, const Tensor& points, const std::optional<Tensor>& offsets,
             const std::optional<Tensor>& features, at::ArrayRef<double> box, at::IntArrayRef shape,
             at::IntArrayRef slab, int64_t reduce, int64_t max_points) {
  Call call;
  call.op = op;
  read_points(call, points, offsets);
  call.grid = grid_of(op, box, shape, slab);
  TORCH_CHECK_VALUE(reduce >= 0 && reduce <= int64_t(Reduction::points) && max_points >= 1, op, ": reduce ", reduce,
                    ", max_points ", max_points);
  call.reduce = Reduction(reduce);
  call.most = max_points;
  if (!features) {
    call.features_held = call.points_held;
    call.features = call.points;
    return call;
  }
  const Tensor& x = *features;
  TORCH_CHECK_VALUE(x.dim() == points.dim() && x.sizes().slice(0, size_t(x.dim() - 1)) ==
                                                   points.sizes().slice(0, size_t(points.dim() - 1)),
                    op, ": features ", x.sizes(), " must be a row a point of points ", points.sizes());
  TORCH_CHECK_VALUE(x.device() == points.device(), op, ": features on ", x.device(), ", points on ", points.device());
  call.features_held = with_unit_stride(x);
  call.features = points_of(call.features_held, call.offsets_held, {op, "features"});
  return call;
}

bool has_values(Reduction reduce) { return reduce >= Reduction::sum; }

// Type and shape of what a dense result, or a row of a sparse one, holds.
at::ScalarType value_type(const Call& call) {
  return call.reduce == Reduction::occupancy ? at::kBool
         : call.reduce == Reduction::count   ? at::kInt
                                             : call.features_held.scalar_type();
}
std::vector<int64_t> row_shape(const Call& call, int64_t rows) {
  if (!has_values(call.reduce)) return {rows, 1};
  if (call.reduce == Reduction::points) return {rows, call.most, call.features.rows.width};
  return {rows, call.features.rows.width};
}

// ---- CPU ------------------------------------------------------------------------------------------------------------

// Points of a piece of work; a thread is started for every second one.
constexpr int64_t kPointsAPiece = 1 << 14;

int64_t begin_of(const Points& p, int64_t cloud) { return p.offsets ? p.offsets[cloud] : cloud * p.length; }

template <class Work> void for_clouds(const Points& p, const Work& work) {
  const int64_t pieces = p.count / kPointsAPiece;
  cpu::in_threads(p.batch, std::min<int64_t>(at::get_num_threads(), pieces / 2 + 1),
                  [&](int64_t b) { work(b, begin_of(p, b), begin_of(p, b + 1)); }, 1);
}

std::vector<int64_t> cells_of_points(const Call& call) {
  std::vector<int64_t> cell(size_t(call.points.count));
  const int64_t pieces = (call.points.count + kPointsAPiece - 1) / kPointsAPiece;
  cpu::in_threads(pieces, at::get_num_threads(), [&](int64_t p) {
    cpu::voxel_cells(call.points, call.grid, p * kPointsAPiece, std::min(call.points.count, (p + 1) * kPointsAPiece),
                     cell.data());
  }, 2);
  return cell;
}

// The features of one cloud.
Rows features_from(const Call& call, int64_t cloud, int64_t begin) {
  Rows rows = call.features.rows;
  const int64_t skipped = call.features.offsets ? begin * rows.row_stride : cloud * rows.batch_stride;
  rows.data = static_cast<const char*>(rows.data) + skipped * call.features_held.element_size();
  return rows;
}

void dense_cpu(const Call& call, Tensor& out, int64_t* dropped) {
  std::vector<int64_t> cell = cells_of_points(call);
  const int64_t voxels = call.grid.cells();
  char* to = static_cast<char*>(out.mutable_data_ptr());
  for_clouds(call.points, [&](int64_t b, int64_t begin, int64_t end) {
    int64_t* mine = cell.data() + begin;
    if (call.reduce == Reduction::occupancy) {
      dropped[b] = cpu::mark_cells(mine, end - begin, reinterpret_cast<bool*>(to) + b * voxels);
    } else if (call.reduce == Reduction::count) {
      dropped[b] = cpu::count_cells(mine, end - begin, reinterpret_cast<int32_t*>(to) + b * voxels);
    } else {
      const cpu::VoxelRows rows = cpu::group_cells(mine, end - begin, voxels, false);
      dropped[b] = rows.dropped;
      cpu::reduce_rows(call.reduce, features_from(call, b, begin), mine, end - begin, rows, rows.cells.data(), 0,
                       to + b * voxels * call.features.rows.width * call.features_held.element_size());
    }
  });
}

Sparse sparse_cpu(const Call& call) {
  const int64_t batch = call.points.batch, voxels = call.grid.cells();
  std::vector<int64_t> cell = cells_of_points(call);
  std::vector<cpu::VoxelRows> found(static_cast<size_t>(batch));
  for_clouds(call.points, [&](int64_t b, int64_t begin, int64_t end) {
    found[size_t(b)] = cpu::group_cells(cell.data() + begin, end - begin, voxels, call.reduce == Reduction::points);
  });
  Tensor offsets = allocate({batch + 1}, call.of(at::kLong)), dropped = allocate({batch}, call.of(at::kLong));
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  offset[0] = 0;
  for (int64_t b = 0; b < batch; ++b) {
    offset[b + 1] = offset[b] + int64_t(found[size_t(b)].cells.size());
    dropped.mutable_data_ptr<int64_t>()[b] = found[size_t(b)].dropped;
  }
  const int64_t rows = offset[batch];
  Tensor coordinates = allocate({rows, 3}, call.of(at::kInt)), counts = allocate({rows}, call.of(at::kInt));
  Tensor point_to_voxel = allocate({call.points.count}, call.of(at::kLong));
  Tensor values = allocate(row_shape(call, rows), call.of(value_type(call)));
  const int64_t row_bytes = rows ? int64_t(values.nbytes()) / rows : 0;
  for_clouds(call.points, [&](int64_t b, int64_t begin, int64_t end) {
    const cpu::VoxelRows& mine = found[size_t(b)];
    const int64_t count = int64_t(mine.cells.size()), n = end - begin, plane = call.grid.shape[1] * call.grid.shape[2];
    int32_t* to = coordinates.mutable_data_ptr<int32_t>() + 3 * offset[b];
    int32_t* held = counts.mutable_data_ptr<int32_t>() + offset[b];
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = mine.cells[size_t(r)], rest = at % plane;
      to[3 * r] = int32_t(at / plane + call.grid.first);
      to[3 * r + 1] = int32_t(rest / call.grid.shape[2]);
      to[3 * r + 2] = int32_t(rest % call.grid.shape[2]);
      held[r] = int32_t(mine.counts[size_t(r)]);
    }
    int64_t* row = point_to_voxel.mutable_data_ptr<int64_t>() + begin;
    for (int64_t i = 0; i < n; ++i) row[i] = cell[size_t(begin + i)] < 0 ? -1 : cell[size_t(begin + i)] + offset[b];
    if (has_values(call.reduce)) {
      cpu::reduce_rows(call.reduce, features_from(call, b, begin), cell.data() + begin, n, mine, nullptr, call.most,
                       static_cast<char*>(values.mutable_data_ptr()) + offset[b] * row_bytes);
    }
  });
  if (call.reduce == Reduction::occupancy) values.fill_(true);
  if (call.reduce == Reduction::count) values.copy_(counts.unsqueeze(1));
  return {coordinates, values, counts, offsets, point_to_voxel, dropped};
}

// ---- CUDA -----------------------------------------------------------------------------------------------------------

#ifdef ROBOCACHE_CUDA
void check_size(const Call& call) {
  TORCH_CHECK_VALUE(call.points.count < INT_MAX && call.points.batch < INT_MAX, call.op, ": ", call.points.count,
                    " points of ", call.points.batch,
                    " clouds; on a GPU below 2^31 at once (voxelize_chunked takes them in pieces)");
}

// Which voxels hold a point; the workspace lives as long as the result.
std::pair<cuda::VoxelGroups, Tensor> groups_of(const Call& call, int64_t* dropped, cudaStream_t stream) {
  const bool first = call.reduce == Reduction::points, values = has_values(call.reduce);
  cuda::VoxelGroups groups = cuda::plan_groups(call.points, call.grid, first, values);
  Tensor memory = allocate({int64_t(groups.bytes)}, call.of(at::kByte));
  cuda::place_groups(groups, memory.mutable_data_ptr());
  cuda::find_groups(groups, dropped, stream);
  return {groups, memory};
}

void dense_cuda(const Call& call, Tensor& out, int64_t* dropped) {
  on_device(out.device(), [&](cudaStream_t stream) {
    if (call.reduce == Reduction::occupancy) {
      return cuda::mark_voxels(call.points, call.grid, out.mutable_data_ptr<bool>(), dropped, stream);
    }
    if (call.reduce == Reduction::count) {
      return cuda::count_voxels(call.points, call.grid, out.mutable_data_ptr<int32_t>(), dropped, stream);
    }
    check_size(call);
    cuda::zero(out.mutable_data_ptr(), int64_t(out.nbytes()), stream);
    const auto [groups, memory] = groups_of(call, dropped, stream);
    cuda::number_groups(groups, {}, groups.limit, stream);
    cuda::reduce_groups(groups, call.reduce, call.features, nullptr, groups.limit, 0, true, out.mutable_data_ptr(),
                        stream);
  });
}

Sparse sparse_cuda(const Call& call) {
  check_size(call);
  Tensor coordinates, values, counts, offsets, point_to_voxel, dropped;
  on_device(call.points_held.device(), [&](cudaStream_t stream) {
    dropped = allocate({call.points.batch}, call.of(at::kLong));
    const auto [groups, memory] = groups_of(call, dropped.mutable_data_ptr<int64_t>(), stream);
    // The one number that the host must wait for; what does not depend on it is allocated meanwhile.
    Tensor number = at::empty({1}, at::TensorOptions(at::kInt).pinned_memory(true));
    C10_CUDA_CHECK(cudaMemcpyAsync(number.mutable_data_ptr(), groups.rows, 4, cudaMemcpyDeviceToHost, stream));
    offsets = allocate({call.points.batch + 1}, call.of(at::kLong));
    point_to_voxel = allocate({call.points.count}, call.of(at::kLong));
    C10_CUDA_CHECK(cudaStreamSynchronize(stream));
    const int64_t rows = *number.const_data_ptr<int32_t>();
    coordinates = allocate({rows, 3}, call.of(at::kInt));
    counts = allocate({rows}, call.of(at::kInt));
    values = allocate(row_shape(call, rows), call.of(value_type(call)));
    cuda::number_groups(groups,
                        {coordinates.mutable_data_ptr<int32_t>(), counts.mutable_data_ptr<int32_t>(),
                         offsets.mutable_data_ptr<int64_t>(), point_to_voxel.mutable_data_ptr<int64_t>()},
                        rows, stream);
    if (has_values(call.reduce)) {
      cuda::reduce_groups(groups, call.reduce, call.features, counts.const_data_ptr<int32_t>(), rows, call.most, false,
                          values.mutable_data_ptr(), stream);
    }
  });
  if (call.reduce == Reduction::occupancy) values.fill_(true);
  if (call.reduce == Reduction::count) values.copy_(counts.unsqueeze(1));
  return {coordinates, values, counts, offsets, point_to_voxel, dropped};
}
#endif

// ---- operators ------------------------------------------------------------------------------------------------------

#define RC_VOXEL_ARGUMENTS                                                                                      \
  const Tensor &points, const std::optional<Tensor>&offsets, const std::optional<Tensor>&features,             \
      at::ArrayRef<double> box, at::IntArrayRef shape, at::IntArrayRef slab, int64_t reduce, int64_t max_points

std::tuple<Tensor, Tensor> voxelize_dense(RC_VOXEL_ARGUMENTS) {
  const Call call = prepare("voxelize", points, offsets, features, box, shape, slab, reduce, max_points);
  TORCH_CHECK_VALUE(call.reduce != Reduction::points, "voxelize: points have a sparse layout only");
  std::vector<int64_t> size = call.dense_shape();
  if (has_values(call.reduce)) size.push_back(call.features.rows.width);
  Tensor dropped = allocate({call.points.batch}, call.of(at::kLong));
#ifdef ROBOCACHE_CUDA
  if (points.is_cuda()) {
    Tensor out = allocate(size, call.of(value_type(call)));
    dense_cuda(call, out, dropped.mutable_data_ptr<int64_t>());
    return {out, dropped};
  }
#endif
  Tensor out = at::zeros(size, call.of(value_type(call)));
  dense_cpu(call, out, dropped.mutable_data_ptr<int64_t>());
  return {out, dropped};
}

Sparse voxelize_sparse(RC_VOXEL_ARGUMENTS) {
  const Call call = prepare("voxelize", points, offsets, features, box, shape, slab, reduce, max_points);
#ifdef ROBOCACHE_CUDA
  if (points.is_cuda()) return sparse_cuda(call);
#endif
  return sparse_cpu(call);
}

Tensor voxel_cells(RC_VOXEL_ARGUMENTS) {
  const Call call = prepare("voxel_cells", points, offsets, features, box, shape, slab, reduce, max_points);
  Tensor out = allocate({call.points.count}, call.of(at::kLong));
  int64_t* cell = out.mutable_data_ptr<int64_t>();
#ifdef ROBOCACHE_CUDA
  if (points.is_cuda()) {
    on_device(points.device(),
              [&](cudaStream_t stream) { cuda::voxel_cells(call.points, call.grid, cell, stream); });
    return out;
  }
#endif
  for_clouds(call.points, [&](int64_t b, int64_t begin, int64_t end) {
    cpu::voxel_cells(call.points, call.grid, begin, end, cell);
    for (int64_t i = begin; i < end; ++i) cell[i] = cell[i] < 0 ? -1 : cell[i] + b * call.grid.cells();
  });
  return out;
}

std::tuple<Tensor, Tensor> integrate_tsdf(const Tensor& points, const std::optional<Tensor>& offsets,
                                          const Tensor& sensor_pose, const std::optional<Tensor>& distance,
                                          const std::optional<Tensor>& weight, at::ArrayRef<double> box,
                                          at::IntArrayRef shape, double truncation) {
  Call call;
  call.op = "integrate_tsdf";
  read_points(call, points, offsets);
  const int64_t slab[2] = {0, shape.empty() ? 0 : shape[0]};
  call.grid = grid_of(call.op, box, shape, slab);
  TORCH_CHECK_VALUE(sensor_pose.dim() == 2 && sensor_pose.size(0) == call.points.batch && sensor_pose.size(1) == 7 &&
                        sensor_pose.scalar_type() == at::kDouble && sensor_pose.device() == points.device(),
                    "integrate_tsdf: sensor_pose ", sensor_pose.scalar_type(), " ", sensor_pose.sizes(), " on ",
                    sensor_pose.device(), " must be float64 [", call.points.batch, ", 7] on ", points.device());
  TORCH_CHECK_VALUE(truncation > 0, "integrate_tsdf: truncation ", truncation);
  const std::vector<int64_t> size = call.dense_shape();
  for (const auto& old : {distance, weight}) {
    TORCH_CHECK_VALUE(!old || (old->scalar_type() == at::kFloat && old->sizes() == at::IntArrayRef(size) &&
                               old->device() == points.device()),
                      "integrate_tsdf: a volume must be float32 ", size, " on ", points.device());
  }
  // Copies: the caller's volume stays as it is.
  const Tensor pose = sensor_pose.contiguous();
  Tensor now = distance ? distance->clone(at::MemoryFormat::Contiguous)
                        : at::full(size, truncation, call.of(at::kFloat));
  Tensor seen = weight ? weight->clone(at::MemoryFormat::Contiguous) : at::zeros(size, call.of(at::kFloat));
  Tensor total = at::zeros(size, call.of(at::kLong)), count = at::zeros(size, call.of(at::kInt));
  int64_t* totals = total.mutable_data_ptr<int64_t>();
  int32_t* counts = count.mutable_data_ptr<int32_t>();
  float *distances = now.mutable_data_ptr<float>(), *weights = seen.mutable_data_ptr<float>();
#ifdef ROBOCACHE_CUDA
  if (points.is_cuda()) {
    on_device(points.device(), [&](cudaStream_t stream) {
      cuda::integrate_tsdf(call.points, call.grid, pose.const_data_ptr<double>(), truncation, totals, counts, distances,
                           weights, stream);
    });
    return {now, seen};
  }
#endif
  const int64_t voxels = call.grid.cells();
  for_clouds(call.points, [&](int64_t b, int64_t begin, int64_t end) {
    const int64_t at = b * voxels;
    cpu::cast_rays(call.points, begin, end, b, call.grid, pose.const_data_ptr<double>(), truncation, totals + at,
                   counts + at);
    cpu::fuse_rays(totals + at, counts + at, 0, voxels, truncation, distances + at, weights + at);
  });
  return {now, seen};
}

}  // namespace
}  // namespace robocache

#define RC_VOXEL_SCHEMA "(Tensor points, Tensor? offsets, Tensor? features, float[] box, int[] shape, int[] slab, " \
                        "int reduce, int max_points) -> "

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def("voxelize_dense" RC_VOXEL_SCHEMA "(Tensor values, Tensor dropped)");
  m.def("voxelize_sparse" RC_VOXEL_SCHEMA
        "(Tensor coordinates, Tensor values, Tensor counts, Tensor offsets, Tensor point_to_voxel, Tensor dropped)");
  m.def("voxel_cells" RC_VOXEL_SCHEMA "Tensor");
  m.def(
      "integrate_tsdf(Tensor points, Tensor? offsets, Tensor sensor_pose, Tensor? distance, Tensor? weight, "
      "float[] box, int[] shape, float truncation) -> (Tensor distance, Tensor weight)");
}

#define RC_VOXEL_KERNELS(m)                                     \
  m.impl("voxelize_dense", &robocache::voxelize_dense);         \
  m.impl("voxelize_sparse", &robocache::voxelize_sparse);       \
  m.impl("voxel_cells", &robocache::voxel_cells);               \
  m.impl("integrate_tsdf", &robocache::integrate_tsdf);

TORCH_LIBRARY_IMPL(robocache, CPU, m) { RC_VOXEL_KERNELS(m) }
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { RC_VOXEL_KERNELS(m) }
#endif
// The gradients of sum and mean are robocache/ops/voxelize.py's; asked of the operators themselves, torch says that
// there are none.
TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  for (const char* op : {"voxelize_dense", "voxelize_sparse", "voxel_cells", "integrate_tsdf"}) {
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  }
}
