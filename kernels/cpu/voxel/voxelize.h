// The doors to voxels on the CPU. Clouds are independent: the caller spreads them over threads.
#pragma once
#include <cstdint>
#include <vector>

#include "robocache/voxel/types.h"

namespace robocache::cpu {

// The voxels of one cloud that hold a point.
struct VoxelRows {
  std::vector<int64_t> cells;   // linear number of each row
  std::vector<int64_t> counts;  // points of each row
  int64_t dropped = 0;
};

// cell[i] of points [begin, end) of all clouds: the linear number in the grid of their own cloud, -1 where dropped.
void voxel_cells(const voxel::Points& points, const voxel::Grid& grid, int64_t begin, int64_t end, int64_t* cell);

// Marks (bool) or counts (int32) the voxels of n points in zeroed memory; how many points are dropped.
int64_t mark_cells(const int64_t* cell, int64_t n, bool* occupied);
int64_t count_cells(const int64_t* cell, int64_t n, int32_t* counts);

// Turns the cells of one cloud's n points into their rows, in place. Rows rise by cell, or stand in the order of their
// first points.
VoxelRows group_cells(int64_t* cell, int64_t n, int64_t cells, bool by_first_point);

// Values of one cloud's rows, of points whose `row` group_cells() has found, and whose features are at `features` (of
// that cloud). Row r is written at out + place(r) * width, `place` being the rows' cells in a dense result, else null;
// for `points` it is [most, width], zeros behind.
void reduce_rows(voxel::Reduction reduce, const voxel::Rows& features, const int64_t* row, int64_t n,
                 const VoxelRows& rows, const int64_t* place, int64_t most, void* out);

// Adds one cloud's rays, as integers of a part of the truncation, and their number, in zeroed memory.
void cast_rays(const voxel::Points& points, int64_t begin, int64_t end, int64_t cloud, const voxel::Grid& grid,
               const double* pose, double truncation, int64_t* total, int32_t* count);
// Brings cells [begin, end) of a volume up to date with them.
void fuse_rays(const int64_t* total, const int32_t* count, int64_t begin, int64_t end, double truncation,
               float* distance, float* weight);

}  // namespace robocache::cpu
