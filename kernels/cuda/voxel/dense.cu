// Occupancy and counts of every voxel.
//
// Two launches (but see below): the result is zeroed, then each point stores a one (whoever writes it, it is a one) or
// adds one (integers: order does not matter). Bytes: the points once, the result once, and in the second launch the
// 32-byte sectors that points hit once more, read and written where the first has left the L2 cache already.
#include "points.cuh"
#include "voxelize.h"

namespace robocache {
namespace {

template <class V>
__global__ void __launch_bounds__(kThreads)
    cells_kernel(const PointSet<V> points, const __grid_constant__ GridCells cells, int64_t voxels, int64_t* out) {
  each_point<kPoints>(points, cells, nullptr,
             [&](int64_t i, int64_t cloud, int64_t cell) { out[i] = cell < 0 ? -1 : cloud * voxels + cell; });
}

template <class V>
__global__ void __launch_bounds__(kThreads)
    mark_kernel(const PointSet<V> points, const __grid_constant__ GridCells cells, int64_t voxels,
                                                        bool* occupied, unsigned long long* dropped) {
  each_point<kPoints>(points, cells, dropped, [&](int64_t, int64_t cloud, int64_t cell) {
    if (cell >= 0) occupied[cloud * voxels + cell] = true;
  });
}

template <class V>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const PointSet<V> points, const __grid_constant__ GridCells cells, int64_t voxels,
                                                         int32_t* counts, unsigned long long* dropped) {
  each_point<kPoints>(points, cells, dropped, [&](int64_t, int64_t cloud, int64_t cell) {
    if (cell >= 0) atomicAdd(counts + cloud * voxels + cell, 1);
  });
}

// ---- occupancy of many small grids ----------------------------------------------------------------------------------
//
// A store a point costs the L2 cache a 32-byte sector a point, and the card does about 50 of these a nanosecond,
// whatever they hold: 32 million points that are spread evenly take 0.65 ms. So where there are clouds enough to keep
// the card busy, a block has the voxels of a cloud, or half of them, as bits in its shared memory, looks at all points
// of the cloud, and writes its bytes once, side by side. Nothing is zeroed before. Bytes: the points once from memory
// (halves of a cloud run side by side and share them in L2), the result once. One block of 1024 threads a
// multiprocessor, a thread four points a step.

constexpr int kWide = 1024;
constexpr int64_t kMostPieces = 2;  // of a cloud: each of them looks at all of its points

template <class V>
__global__ void __launch_bounds__(kWide)
    bitmap_kernel(const PointSet<V> points, const __grid_constant__ GridCells cells, int64_t voxels, int pieces,
                  uint32_t piece_voxels, bool* occupied, int64_t* dropped) {
  extern __shared__ uint32_t bits[];
  __shared__ int lost_by_all;
  const int64_t cloud = blockIdx.x / pieces;
  const uint32_t piece = blockIdx.x % pieces, lower = piece * piece_voxels;
  const uint32_t mine = min(piece_voxels, uint32_t(voxels) - lower);
  for (uint32_t w = threadIdx.x; w < (mine + 31) / 32; w += kWide) bits[w] = 0;
  if (threadIdx.x == 0) lost_by_all = 0;
  __syncthreads();
  const V* base = points.at(cloud * points.length, cloud);
  int lost = 0;
  const auto found = [&](int64_t cell) {
    const uint32_t at = uint32_t(cell) - lower;
    if (cell < 0) ++lost;
    else if (at < mine) atomicOr(bits + at / 32, 1u << at % 32);
  };
  for (int64_t begin = 0; begin < points.length; begin += kPoints * kWide) {
    float x[kPoints], y[kPoints], z[kPoints];
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      const int64_t i = begin + k * kWide + threadIdx.x;
      if (i < points.length) {
        const V* p = base + i * points.row_stride;
        x[k] = float(load(p)), y[k] = float(load(p + 1)), z[k] = float(load(p + 2));
      }
    }
    unsigned unsure = 0;
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      if (begin + k * kWide + threadIdx.x >= points.length) break;
      const int64_t cell = fast_cell(cells.fast, x[k], y[k], z[k]);
      if (cell == kUnsure) unsure |= 1u << k;
      else found(cell);
    }
    RC_ROLLED while (unsure) {
      const V* p = base + (begin + (__ffs(unsure) - 1) * kWide + threadIdx.x) * points.row_stride;
      found(cell_of(cells.exact, double(load(p)), double(load(p + 1)), double(load(p + 2))));
      unsure &= unsure - 1;
    }
  }
  if (piece == 0) {
    lost = __reduce_add_sync(~0u, lost);
    if (threadIdx.x % 32 == 0) atomicAdd(&lost_by_all, lost);
  }
  __syncthreads();
  if (piece == 0 && threadIdx.x == 0) dropped[cloud] = lost_by_all;
  // Four bits become four bytes by one multiplication.
  const auto bytes = [](uint32_t four) { return (four & 15) * 0x00204081u & 0x01010101u; };
  uint4* to = reinterpret_cast<uint4*>(occupied + cloud * voxels + lower);
  for (uint32_t v = threadIdx.x; v < mine / 16; v += kWide) {
    const uint32_t b = bits[v / 2] >> (v % 2 * 16);
    __stcs(to + v, make_uint4(bytes(b), bytes(b >> 4), bytes(b >> 8), bytes(b >> 12)));
  }
}

// Whether it did: dense batches of enough clouds of float32 or narrower, whose grids fit.
bool mark_in_shared(const voxel::Points& points, const voxel::Grid& grid, bool* occupied, int64_t* dropped,
                    cudaStream_t queue) {
  int device = 0, room = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  // A KiB is left for what the block has beside its bits.
  const int64_t voxels = grid.cells(), fits = int64_t(room - 1024) / 128 * 128 * 8;
  const int64_t pieces = (voxels + fits - 1) / fits;
  const GridCells cells = GridCells::of(grid);
  if (points.offsets || points.rows.dtype == DType::f64 || !cells.fast.usable || voxels % 16 || pieces > kMostPieces ||
      points.batch * pieces * 2 < processors || points.length < kWide || points.length >= INT_MAX) {
    return false;
  }
  const int64_t piece_voxels = (voxels / pieces + 127) / 128 * 128;
  const int bytes = int((piece_voxels + 31) / 32 * 4);
  const auto launch = [&](auto v) {
    using V = decltype(v);
    cudaFuncSetAttribute(bitmap_kernel<V>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    bitmap_kernel<V><<<unsigned(points.batch * pieces), kWide, bytes, queue>>>(
        PointSet<V>::of(points), cells, voxels, int(pieces), uint32_t(piece_voxels), occupied, dropped);
  };
  switch (points.rows.dtype) {
    case DType::f32: launch(float()); break;
    case DType::f16: launch(Half()); break;
    default: launch(BFloat16());
  }
  return true;
}

}  // namespace

void cuda::voxel_cells(const voxel::Points& points, const voxel::Grid& grid, int64_t* cell, cudaStream_t queue) {
  if (points.count == 0) return;
  with_dtype(points.rows.dtype, [&](auto v) {
    cells_kernel<<<blocks_for(points.count, kTile), kThreads, 0, queue>>>(PointSet<decltype(v)>::of(points),
                                                                          GridCells::of(grid), grid.cells(), cell);
  });
}

void cuda::zero(void* memory, int64_t bytes, cudaStream_t queue) { fill({memory, bytes, 0}, {}, queue); }

void cuda::mark_voxels(const voxel::Points& points, const voxel::Grid& grid, bool* occupied, int64_t* dropped,
                       cudaStream_t queue) {
  if (mark_in_shared(points, grid, occupied, dropped, queue)) return;
  fill({occupied, points.batch * grid.cells(), 0}, {dropped, points.batch * int64_t(sizeof *dropped), 0}, queue);
  if (points.count == 0) return;
  with_dtype(points.rows.dtype, [&](auto v) {
    mark_kernel<<<blocks_for(points.count, kTile), kThreads, 0, queue>>>(
        PointSet<decltype(v)>::of(points), GridCells::of(grid), grid.cells(), occupied,
        reinterpret_cast<unsigned long long*>(dropped));
  });
}

void cuda::count_voxels(const voxel::Points& points, const voxel::Grid& grid, int32_t* counts, int64_t* dropped,
                        cudaStream_t queue) {
  fill({counts, points.batch * grid.cells() * int64_t(sizeof *counts), 0},
       {dropped, points.batch * int64_t(sizeof *dropped), 0}, queue);
  if (points.count == 0) return;
  with_dtype(points.rows.dtype, [&](auto v) {
    count_kernel<<<blocks_for(points.count, kTile), kThreads, 0, queue>>>(
        PointSet<decltype(v)>::of(points), GridCells::of(grid), grid.cells(), counts,
        reinterpret_cast<unsigned long long*>(dropped));
  });
}

}  // namespace robocache
