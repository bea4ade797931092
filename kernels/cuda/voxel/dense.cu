// Occupancy and counts of every voxel.
//
// Two launches: the result is zeroed, then each point stores a one (whoever writes it, it is a one) or adds one
// (integers: order does not matter). Bytes: the points once, the result once, and in the second launch the 32-byte
// sectors that points hit once more, read and written where the first has left the L2 cache already.
#include "points.cuh"
#include "voxelize.h"

namespace robocache {
namespace {

template <class V>
__global__ void __launch_bounds__(kThreads)
    cells_kernel(const PointSet<V> points, const Cells cells, int64_t voxels, int64_t* out) {
  each_point(points, cells, nullptr,
             [&](int64_t i, int64_t cloud, int64_t cell) { out[i] = cell < 0 ? -1 : cloud * voxels + cell; });
}

template <class V>
__global__ void __launch_bounds__(kThreads) mark_kernel(const PointSet<V> points, const Cells cells, int64_t voxels,
                                                        bool* occupied, unsigned long long* dropped) {
  each_point(points, cells, dropped, [&](int64_t, int64_t cloud, int64_t cell) {
    if (cell >= 0) occupied[cloud * voxels + cell] = true;
  });
}

template <class V>
__global__ void __launch_bounds__(kThreads) count_kernel(const PointSet<V> points, const Cells cells, int64_t voxels,
                                                         int32_t* counts, unsigned long long* dropped) {
  each_point(points, cells, dropped, [&](int64_t, int64_t cloud, int64_t cell) {
    if (cell >= 0) atomicAdd(counts + cloud * voxels + cell, 1);
  });
}

}  // namespace

void cuda::voxel_cells(const voxel::Points& points, const voxel::Grid& grid, int64_t* cell, cudaStream_t queue) {
  if (points.count == 0) return;
  with_dtype(points.rows.dtype, [&](auto v) {
    cells_kernel<<<blocks_for(points.count, kTile), kThreads, 0, queue>>>(PointSet<decltype(v)>::of(points),
                                                                          cells_of(grid), grid.cells(), cell);
  });
}

void cuda::zero(void* memory, int64_t bytes, cudaStream_t queue) { clear(memory, bytes, nullptr, 0, queue); }

void cuda::mark_voxels(const voxel::Points& points, const voxel::Grid& grid, bool* occupied, int64_t* dropped,
                       cudaStream_t queue) {
  clear(occupied, points.batch * grid.cells(), dropped, points.batch * int64_t(sizeof *dropped), queue);
  if (points.count == 0) return;
  with_dtype(points.rows.dtype, [&](auto v) {
    mark_kernel<<<blocks_for(points.count, kTile), kThreads, 0, queue>>>(
        PointSet<decltype(v)>::of(points), cells_of(grid), grid.cells(), occupied,
        reinterpret_cast<unsigned long long*>(dropped));
  });
}

void cuda::count_voxels(const voxel::Points& points, const voxel::Grid& grid, int32_t* counts, int64_t* dropped,
                        cudaStream_t queue) {
  clear(counts, points.batch * grid.cells() * int64_t(sizeof *counts), dropped,
        points.batch * int64_t(sizeof *dropped), queue);
  if (points.count == 0) return;
  with_dtype(points.rows.dtype, [&](auto v) {
    count_kernel<<<blocks_for(points.count, kTile), kThreads, 0, queue>>>(
        PointSet<decltype(v)>::of(points), cells_of(grid), grid.cells(), counts,
        reinterpret_cast<unsigned long long*>(dropped));
  });
}

}  // namespace robocache
