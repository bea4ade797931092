// The doors to the voxel kernels. No torch, no allocation, no synchronisation: launches on the given stream, into
// memory that the caller provides. Batches of fewer than 2^31 points, except for cells, occupancy and counts.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

#include "robocache/voxel/types.h"

namespace robocache::cuda {

// cell[i]: the place of point i's voxel in [batch, cells of the grid] flattened, -1 where dropped.
void voxel_cells(const voxel::Points& points, const voxel::Grid& grid, int64_t* cell, cudaStream_t queue);

// Dense results, written whole; `dropped` [batch] too.
void mark_voxels(const voxel::Points& points, const voxel::Grid& grid, bool* occupied, int64_t* dropped,
                 cudaStream_t queue);
void count_voxels(const voxel::Points& points, const voxel::Grid& grid, int32_t* counts, int64_t* dropped,
                  cudaStream_t queue);

// The voxels that hold a point, as rows: in three steps, with the number of rows known after the first.
//   find    which voxels there are
//   [the host may fetch *groups.rows, to allocate results of that size]
//   number  the row of each point
//   reduce  the values of each row
struct VoxelGroups {
  voxel::Points points;
  voxel::Grid grid;
  bool by_first_point;  // else rows rise by (cloud, cell)
  bool values;          // reduce() will be called
  bool hashed;          // found by a hash table, not by a bit a voxel
  int64_t limit;        // rows there can be
  const uint32_t* rows;  // how many there are, on the device
  size_t bytes, scratch_bytes;  // of workspace; of cub's part of it
  // The workspace, cut up.
  uint32_t* slot;              // of each point: its voxel's bit, or its slot in the table
  uint32_t *local, *order;     // its place among its voxel's points; the points, row by row
  uint32_t *counts, *start;    // of each row: how many points, where in `order`
  uint32_t *bits, *extra_row;  // by bits; the row of each point that is not the head of one
  uint32_t* head;              // a point of each row, which is not in `order`
  uint64_t* keys;              // by hash: slots
  uint32_t *first, *held, *slot_row;
  uint64_t *scan, *row_keys, *sorted_keys;  // and rows
  uint32_t *row_held, *row_start, *row_old, *row_new;
  void* scratch;
};
VoxelGroups plan_groups(const voxel::Points& points, const voxel::Grid& grid, bool by_first_point, bool values);
// Cuts up the memory at `workspace`, of groups.bytes.
void place_groups(VoxelGroups& groups, void* workspace);
void find_groups(const VoxelGroups& groups, int64_t* dropped, cudaStream_t queue);

// What a sparse result says of its rows; in a dense one all are null.
struct RowResults {
  int32_t* coordinates;     // [rows, 3]
  int32_t* counts;          // [rows]
  int64_t* offsets;         // [batch + 1]
  int64_t* point_to_voxel;  // [count]
};
// rows: how many there are, or at most; a dense result does not know better than groups.limit.
void number_groups(const VoxelGroups& groups, const RowResults& results, int64_t rows, cudaStream_t queue);
// counts: of RowResults, or null. out: [rows, width], for `points` [rows, most, width]; in a dense result
// [batch, cells, width], zeroed before.
void reduce_groups(const VoxelGroups& groups, voxel::Reduction reduce, const voxel::Points& features,
                   const int32_t* counts, int64_t rows, int64_t most, bool dense, void* out, cudaStream_t queue);

// Zeroes memory in one launch.
void zero(void* memory, int64_t bytes, cudaStream_t queue);

// Rays into zeroed integers, and these into a volume: see robocache/voxel/ray.h.
void integrate_tsdf(const voxel::Points& points, const voxel::Grid& grid, const double* pose, double truncation,
                    int64_t* total, int32_t* count, float* distance, float* weight, cudaStream_t queue);

}  // namespace robocache::cuda
