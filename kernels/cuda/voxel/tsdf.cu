// Truncated signed distances: a thread walks the band of one ray and adds integers, in any order, to the voxels that
// it crosses; a second launch brings the volume up to date. Bytes: the points once, 12 a voxel zeroed by the caller,
// 12 read and 16 exchanged in the second launch; between them a 64-bit and a 32-bit addition in L2 a ray and voxel.
#include "points.cuh"
#include "robocache/voxel/ray.h"
#include "voxelize.h"

namespace robocache {
namespace {

template <class V>
__global__ void __launch_bounds__(kThreads)
    cast_kernel(const PointSet<V> points, const voxel::Grid grid, int64_t voxels, const double* pose, double truncation,
                int64_t most, unsigned long long* total, int32_t* count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= points.count) return;
  const int64_t cloud = points.cloud_of(i, 0);
  const V* p = points.at(i, cloud);
  const Vector point{double(load(p)), double(load(p + 1)), double(load(p + 2))};
  walk_ray(grid, Pose::at(pose + 7 * cloud), point, truncation, most, [&](int64_t cell, int64_t distance) {
    atomicAdd(total + cloud * voxels + cell, (unsigned long long)distance);  // two's complement: signed all the same
    atomicAdd(count + cloud * voxels + cell, 1);
  });
}

__global__ void __launch_bounds__(kThreads) fuse_kernel(const int64_t* total, const int32_t* count, int64_t voxels,
                                                        double truncation, float* distance, float* weight) {
  const int64_t threads = int64_t(gridDim.x) * kThreads;
  for (int64_t v = int64_t(blockIdx.x) * kThreads + threadIdx.x; v < voxels; v += threads) {
    if (count[v]) fuse_tsdf(distance[v], weight[v], total[v], count[v], truncation);
  }
}

}  // namespace

void cuda::integrate_tsdf(const voxel::Points& points, const voxel::Grid& grid, const double* pose, double truncation,
                          int64_t* total, int32_t* count, float* distance, float* weight, cudaStream_t queue) {
  if (points.count == 0 || grid.cells() == 0) return;
  with_dtype(points.rows.dtype, [&](auto v) {
    cast_kernel<<<blocks_for(points.count, kThreads), kThreads, 0, queue>>>(
        PointSet<decltype(v)>::of(points), grid, grid.cells(), pose, truncation, most_steps(grid, truncation),
        reinterpret_cast<unsigned long long*>(total), count);
  });
  const int64_t voxels = points.batch * grid.cells();
  fuse_kernel<<<blocks_for(voxels, 4 * kThreads), kThreads, 0, queue>>>(total, count, voxels, truncation, distance,
                                                                       weight);
}

}  // namespace robocache
