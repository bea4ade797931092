// Which voxels hold a point, and the row of each point among them. Two ways, for the same rows:
//
// By bits (rows rise by cell; grids of up to 2^31 voxels that are not much larger than the points are many):
//   mark     each point sets its voxel's bit (atomicOr) and keeps the bit's number; 12 bytes in (float32), 4 out
//   scan     set bits before each 256 bits, cub's single-pass scan with decoupled look-back; a 256th of the voxels in
//            bytes, twice. Rows and their order follow from the bits alone, so nothing is sorted
//   emit     coordinates of the set bits: a warp takes 1024 bits, lists the set ones in shared memory (2 KiB a warp)
//            and writes their rows side by side; 12 bytes a voxel
//   assign   a point's row from its 32-byte sector of bits and the scan; 4 bytes in, 8 out (16 for values); counts by atomicAdd, of
//            which the lanes of a warp in one voxel make one
//   place    only where values are wanted: the counts' scan says where each row's points begin; 12 bytes in, 4 out
// By hash (rows in the order of their first points; or huge grids, whose rows are sorted after):
//   insert   open addressing, at most half full, keys by atomicCAS; a slot keeps its first point (atomicMin) and how
//            many it has (atomicAdd); 16 bytes a slot, 2 to 4 slots a point, 12 bytes in (float32), 8 out a point
//   scan     over points: those that are the first of their slot, and the points of these slots: row and place at once
//   rows     the rows' keys, counts, places; sorted by key (cub) where the order asks for it
//   place    as above
// Where a point stands among those of its voxel is left to chance here; reduce.cu does not depend on it.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include "points.cuh"
#include "voxelize.h"

namespace robocache {
namespace {

using cuda::RowResults;
using cuda::VoxelGroups;

constexpr int kBitsABlock = 256;  // one 32-byte sector, for which the scan has one number
constexpr uint64_t kEmpty = ~uint64_t(0);
// Bits are cleared, scanned and looked through: this many bytes of them a point cost less than sorting the voxels.
constexpr int64_t kBitBytesAPoint = 64, kBitBytesAlways = 1 << 22;

int64_t blocks_a_cloud(const voxel::Grid& grid) {
  return (grid.cells() + kBitsABlock - 1) / kBitsABlock;
}
int64_t bit_blocks(const VoxelGroups& g) { return g.points.batch * blocks_a_cloud(g.grid); }

__device__ uint32_t lower_lanes() { return (1u << (threadIdx.x % 32)) - 1; }

// ---- by bits --------------------------------------------------------------------------------------------------------

template <class V>
__global__ void __launch_bounds__(kThreads) mark_bits_kernel(const PointSet<V> points, const Cells cells,
                                                             uint32_t cloud_bits, uint32_t* bits, uint32_t* slot,
                                                             unsigned long long* dropped) {
  each_point(points, cells, dropped, [&](int64_t i, int64_t cloud, int64_t cell) {
    const uint32_t bit = cell < 0 ? kNone : uint32_t(cloud) * cloud_bits + uint32_t(cell);
    if (cell >= 0) atomicOr(bits + bit / 32, 1u << bit % 32);
    slot[i] = bit;
  });
}

// Set bits of a block; nothing behind the last.
struct BitsOf {
  const uint32_t* bits;
  int64_t blocks;
  __device__ uint32_t operator()(int64_t block) const {
    if (block >= blocks) return 0;
    const uint4* at = reinterpret_cast<const uint4*>(bits) + 2 * block;
    const uint4 a = at[0], b = at[1];
    return __popc(a.x) + __popc(a.y) + __popc(a.z) + __popc(a.w) + __popc(b.x) + __popc(b.y) + __popc(b.z) + __popc(b.w);
  }
};

__device__ uint32_t row_of_bit(const uint32_t* bits, const uint32_t* before, uint32_t bit) {
  const uint32_t block = bit / kBitsABlock, word = bit / 32 % 8;
  const uint4* at = reinterpret_cast<const uint4*>(bits) + 2 * block;
  const uint4 a = at[0], b = at[1];
  const uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  uint32_t row = before[block];
#pragma unroll
  for (uint32_t w = 0; w < 8; ++w) {
    const uint32_t below = w < word ? ~0u : w == word ? (1u << bit % 32) - 1 : 0;
    row += __popc(words[w] & below);
  }
  return row;
}

// Of 1024 bits a warp; the first threads also write the clouds' offsets.
__global__ void __launch_bounds__(kThreads)
    emit_bits_kernel(const uint32_t* bits, const uint32_t* before, int64_t blocks, Divisor a_cloud, Divisor plane,
                     Divisor line, int32_t first_x, int64_t batch, int32_t* coordinates, int64_t* offsets) {
  __shared__ uint16_t set[kThreads / 32][1024];
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t b = thread; b <= batch; b += int64_t(gridDim.x) * kThreads) offsets[b] = before[b * a_cloud.d];
  const int64_t words = blocks * (kBitsABlock / 32), word = thread;
  const uint32_t lane = threadIdx.x % 32;
  uint32_t mine = word < words ? bits[word] : 0;
  uint32_t sum = __popc(mine);
  const uint32_t own = sum;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  const uint32_t total = __shfl_sync(~0u, sum, 31);
  if (total == 0) return;
  uint16_t* list = set[threadIdx.x / 32];
  for (uint32_t at = sum - own; mine; mine &= mine - 1) list[at++] = uint16_t(lane * 32 + __ffs(mine) - 1);
  __syncwarp();
  const uint32_t begin = uint32_t(word - lane) * 32;  // bits are below 2^31
  int32_t* to = coordinates + 3 * int64_t(before[begin / kBitsABlock]);
  for (uint32_t e = lane; e < 3 * total; e += 32) {
    const uint32_t bit = begin + list[e / 3], axis = e % 3;
    const uint32_t cloud = a_cloud.quotient(bit / kBitsABlock), cell = bit - cloud * a_cloud.d * kBitsABlock;
    const uint32_t x = plane.quotient(cell), rest = cell - x * plane.d, y = line.quotient(rest);
    to[e] = axis == 0 ? int32_t(x) + first_x : int32_t(axis == 1 ? y : rest - y * line.d);
  }
}

__global__ void __launch_bounds__(kThreads)
    assign_kernel(const uint32_t* bits, const uint32_t* before, const uint32_t* slot, int64_t count, int32_t* counts,
                  uint32_t* local, uint32_t* row_of, int64_t* point_to_voxel) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const uint32_t bit = i < count ? slot[i] : kNone;
  const uint32_t row = bit == kNone ? kNone : row_of_bit(bits, before, bit);
  const uint32_t same = __match_any_sync(~0u, row);
  uint32_t base = 0;
  const int leader = __ffs(same) - 1;
  if (row != kNone && int(threadIdx.x % 32) == leader) base = atomicAdd(counts + row, __popc(same));
  base = __shfl_sync(~0u, base, leader);
  if (i >= count) return;
  if (point_to_voxel) point_to_voxel[i] = row == kNone ? -1 : int64_t(row);
  if (!local) return;  // no values
  local[i] = base + __popc(same & lower_lanes());
  row_of[i] = row;
}

// ---- by hash --------------------------------------------------------------------------------------------------------

__device__ uint32_t find_slot(uint64_t* keys, uint32_t slots, int shift, uint64_t key) {
  // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
  for (uint32_t s = uint32_t((key * 0x9e3779b97f4a7c15u) >> shift);; s = (s + 1) & (slots - 1)) {
    uint64_t found = *reinterpret_cast<volatile uint64_t*>(keys + s);
    if (found == kEmpty) {
      found = atomicCAS(reinterpret_cast<unsigned long long*>(keys + s), (unsigned long long)kEmpty,
                        (unsigned long long)key);
      if (found == kEmpty) return s;
    }
    if (found == key) return s;
  }
}

template <class V>
__global__ void __launch_bounds__(kThreads)
    insert_kernel(const PointSet<V> points, const Cells cells, uint64_t voxels, uint32_t slots, int shift,
                  uint64_t* keys, uint32_t* first, uint32_t* held, uint32_t* slot, uint32_t* local,
                  unsigned long long* dropped) {
  each_point(points, cells, dropped, [&](int64_t i, int64_t cloud, int64_t cell) {
    const uint64_t key = cell < 0 ? kEmpty : uint64_t(cloud) * voxels + uint64_t(cell);
    const uint32_t same = __match_any_sync(__activemask(), key);
    const int leader = __ffs(same) - 1;  // the lowest lane has the first of these points
    uint32_t s = kNone, base = 0;
    if (cell >= 0 && int(threadIdx.x % 32) == leader) {
      s = find_slot(keys, slots, shift, key);
      atomicMin(first + s, uint32_t(i));
      base = atomicAdd(held + s, __popc(same)) + 1;  // from -1
    }
    slot[i] = __shfl_sync(same, s, leader);
    local[i] = __shfl_sync(same, base, leader) + __popc(same & lower_lanes());
  });
}

// A row and its points where point i is the first of its voxel: counted in the upper and the lower half.
struct FirstOf {
  const uint32_t *slot, *first, *held;
  int64_t count;
  __device__ uint64_t operator()(int64_t i) const {
    const uint32_t s = i < count ? slot[i] : kNone;
    return s == kNone || first[s] != uint32_t(i) ? 0 : (uint64_t(1) << 32) + held[s] + 1;
  }
};

__global__ void __launch_bounds__(kThreads)
    rows_kernel(const FirstOf firsts, const uint64_t* scan, const uint64_t* keys, uint32_t* slot_row,
                uint64_t* row_keys, uint32_t* row_held, uint32_t* row_start, uint32_t* row_number) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= firsts.count) return;
  const uint64_t found = firsts(i);
  if (found == 0) return;
  const uint32_t row = uint32_t(scan[i] >> 32), s = firsts.slot[i];
  slot_row[s] = row;
  row_keys[row] = keys[s];
  row_held[row] = uint32_t(found);
  row_start[row] = uint32_t(scan[i]);
  row_number[row] = row;
}

struct Shape {
  int64_t voxels, plane, line, first_x;
};

__global__ void __launch_bounds__(kThreads)
    emit_rows_kernel(const uint32_t* rows, const uint64_t* row_keys, const uint32_t* row_held,
                     const uint32_t* row_start, const uint32_t* row_old, Shape shape, int32_t* coordinates,
                     int32_t* counts, uint32_t* start, uint32_t* row_new) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= *rows) return;
  const uint32_t old = row_old ? row_old[r] : uint32_t(r);
  counts[r] = int32_t(row_held[old]);
  if (start) start[r] = row_start[old];
  row_new[old] = uint32_t(r);
  if (!coordinates) return;
  const int64_t cell = int64_t(row_keys[r] % uint64_t(shape.voxels)), rest = cell % shape.plane;
  coordinates[3 * r] = int32_t(cell / shape.plane + shape.first_x);
  coordinates[3 * r + 1] = int32_t(rest / shape.line);
  coordinates[3 * r + 2] = int32_t(rest % shape.line);
}

__global__ void __launch_bounds__(kThreads) offsets_kernel(const uint64_t* scan, const int64_t* point_offsets,
                                                           int64_t length, int64_t batch, int64_t* offsets) {
  const int64_t b = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (b <= batch) offsets[b] = int64_t(scan[point_offsets ? point_offsets[b] : b * length] >> 32);
}

__global__ void __launch_bounds__(kThreads)
    hashed_rows_kernel(const uint32_t* slot, const uint32_t* slot_row, const uint32_t* row_new, const uint32_t* start,
                       const uint32_t* local, int64_t count, uint32_t* order, int64_t* point_to_voxel) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const uint32_t s = slot[i], row = s == kNone ? kNone : row_new[slot_row[s]];
  if (point_to_voxel) point_to_voxel[i] = row == kNone ? -1 : int64_t(row);
  if (order && row != kNone) order[start[row] + local[i]] = uint32_t(i);
}

// ---- both -----------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) place_kernel(const uint32_t* row_of, const uint32_t* start,
                                                         const uint32_t* local, int64_t count, uint32_t* order) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const uint32_t row = row_of[i];
  if (row != kNone) order[start[row] + local[i]] = uint32_t(i);
}

auto scan_bits(const VoxelGroups& g) {
  return thrust::make_transform_iterator(thrust::counting_iterator<int64_t>(0), BitsOf{g.bits, bit_blocks(g)});
}
auto scan_firsts(const VoxelGroups& g) {
  return thrust::make_transform_iterator(thrust::counting_iterator<int64_t>(0),
                                         FirstOf{g.slot, g.first, g.held, g.points.count});
}
int key_bits(const VoxelGroups& g) {
  int bits = 1;
  while (bits < 63 && (int64_t(1) << bits) < g.points.batch * g.grid.cells()) ++bits;
  return bits;
}
int64_t slots_of(const VoxelGroups& g) {
  int64_t slots = 1024;
  while (slots < 2 * g.points.count) slots *= 2;
  return slots;
}
int shift_of(int64_t slots) {
  int shift = 64;
  for (; slots > 1; slots /= 2) --shift;
  return shift;
}

size_t scratch_needed(const VoxelGroups& g) {
  size_t most = 0, bytes = 0;
  const auto seen = [&] { most = bytes > most ? bytes : most; };
  if (g.hashed) {
    cub::DeviceScan::ExclusiveSum(nullptr, bytes, scan_firsts(g), g.scan, g.points.count + 1), seen();
    if (!g.by_first_point) {
      cub::DeviceRadixSort::SortPairs(nullptr, bytes, g.row_keys, g.sorted_keys, g.row_new, g.row_old, g.limit), seen();
    }
  } else {
    cub::DeviceScan::ExclusiveSum(nullptr, bytes, scan_bits(g), g.before, bit_blocks(g) + 1), seen();
    cub::DeviceScan::ExclusiveSum(nullptr, bytes, g.counts, g.start, g.limit), seen();
  }
  return most;
}

}  // namespace

cuda::VoxelGroups cuda::plan_groups(const voxel::Points& points, const voxel::Grid& grid, bool by_first_point,
                                    bool values, void* workspace) {
  VoxelGroups g{};
  g.points = points, g.grid = grid, g.by_first_point = by_first_point, g.values = values;
  const int64_t n = points.count, voxels = points.batch * grid.cells(), bits = bit_blocks(g) * kBitsABlock;
  g.limit = n < voxels ? n : voxels;
  g.hashed = by_first_point || bits >= kDivisible || bits / 8 > kBitBytesAPoint * n + kBitBytesAlways;
  size_t at = 0;
  const auto take = [&](auto*& pointer, int64_t count) {
    at = (at + 255) & ~size_t(255);
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(static_cast<char*>(workspace) + at);
    at += size_t(count) * sizeof *pointer;
  };
  take(g.slot, n);
  take(g.counts, g.limit);
  if (values || g.hashed) take(g.local, n);
  if (values) take(g.order, n), take(g.start, g.limit);
  if (g.hashed) {
    const int64_t slots = slots_of(g);
    take(g.keys, slots), take(g.first, slots), take(g.held, slots);  // side by side: filled by one call
    take(g.slot_row, slots), take(g.scan, n + 1), take(g.row_keys, g.limit);
    take(g.row_held, g.limit), take(g.row_start, g.limit), take(g.row_new, g.limit);
    if (!by_first_point) take(g.sorted_keys, g.limit), take(g.row_old, g.limit);
    g.rows = reinterpret_cast<const uint32_t*>(g.scan + n) + 1;  // the upper half, little-endian
  } else {
    take(g.bits, bits / 32), take(g.before, bit_blocks(g) + 1);
    if (values) take(g.row, n);
    g.rows = g.before + bit_blocks(g);
  }
  g.scratch_bytes = scratch_needed(g);
  char* scratch;
  take(scratch, int64_t(g.scratch_bytes));
  g.scratch = scratch;
  g.bytes = at;
  return g;
}

void cuda::find_groups(const VoxelGroups& g, int64_t* dropped, cudaStream_t queue) {
  size_t scratch = g.scratch_bytes;
  const int64_t n = g.points.count, dropped_bytes = g.points.batch * int64_t(sizeof *dropped);
  auto* lost = reinterpret_cast<unsigned long long*>(dropped);
  if (g.hashed) {
    const int64_t slots = slots_of(g);
    cudaMemsetAsync(g.keys, 0xff, size_t(reinterpret_cast<char*>(g.held + slots) - reinterpret_cast<char*>(g.keys)),
                    queue);
    clear(dropped, dropped_bytes, nullptr, 0, queue);
    if (n > 0) {
      with_dtype(g.points.rows.dtype, [&](auto v) {
        insert_kernel<<<blocks_for(n, kTile), kThreads, 0, queue>>>(
            PointSet<decltype(v)>::of(g.points), cells_of(g.grid), uint64_t(g.grid.cells()), uint32_t(slots),
            shift_of(slots), g.keys, g.first, g.held, g.slot, g.local, lost);
      });
    }
    cub::DeviceScan::ExclusiveSum(g.scratch, scratch, scan_firsts(g), g.scan, n + 1, queue);
    return;
  }
  clear(g.bits, bit_blocks(g) * kBitsABlock / 8, dropped, dropped_bytes, queue);
  if (n > 0) {
    with_dtype(g.points.rows.dtype, [&](auto v) {
      mark_bits_kernel<<<blocks_for(n, kTile), kThreads, 0, queue>>>(
          PointSet<decltype(v)>::of(g.points), cells_of(g.grid), uint32_t(blocks_a_cloud(g.grid) * kBitsABlock), g.bits,
          g.slot, lost);
    });
  }
  cub::DeviceScan::ExclusiveSum(g.scratch, scratch, scan_bits(g), g.before, bit_blocks(g) + 1, queue);
}

void cuda::number_groups(const VoxelGroups& g, const RowResults& results, int64_t rows, cudaStream_t queue) {
  size_t scratch = g.scratch_bytes;
  const int64_t n = g.points.count, batch = g.points.batch;
  int32_t* counts = results.counts ? results.counts : reinterpret_cast<int32_t*>(g.counts);
  const int64_t plane = g.grid.shape[1] * g.grid.shape[2], line = g.grid.shape[2];
  if (g.hashed) {
    if (results.offsets) {
      offsets_kernel<<<blocks_for(batch + 1, kThreads), kThreads, 0, queue>>>(g.scan, g.points.offsets, g.points.length,
                                                                              batch, results.offsets);
    }
    if (n == 0 || rows == 0) {
      if (n > 0 && results.point_to_voxel) cudaMemsetAsync(results.point_to_voxel, 0xff, size_t(n) * 8, queue);
      return;
    }
    rows_kernel<<<blocks_for(n, kThreads), kThreads, 0, queue>>>(FirstOf{g.slot, g.first, g.held, n}, g.scan, g.keys,
                                                                 g.slot_row, g.row_keys, g.row_held, g.row_start,
                                                                 g.row_new);
    if (!g.by_first_point) {
      cub::DeviceRadixSort::SortPairs(g.scratch, scratch, g.row_keys, g.sorted_keys, g.row_new, g.row_old, rows, 0,
                                      key_bits(g), queue);
    }
    emit_rows_kernel<<<blocks_for(rows, kThreads), kThreads, 0, queue>>>(
        g.rows, g.by_first_point ? g.row_keys : g.sorted_keys, g.row_held, g.row_start,
        g.by_first_point ? nullptr : g.row_old, Shape{g.grid.cells(), plane, line, g.grid.first}, results.coordinates,
        counts, g.start, g.row_new);
    hashed_rows_kernel<<<blocks_for(n, kThreads), kThreads, 0, queue>>>(g.slot, g.slot_row, g.row_new, g.start, g.local,
                                                                        n, g.order, results.point_to_voxel);
    return;
  }
  const int64_t blocks = bit_blocks(g);
  clear(counts, rows * int64_t(sizeof *counts), nullptr, 0, queue);
  if (results.coordinates) {
    const int64_t a_cloud = blocks_a_cloud(g.grid);
    const int64_t threads = blocks * (kBitsABlock / 32);
    emit_bits_kernel<<<blocks_for(threads > 0 ? threads : 1, kThreads), kThreads, 0, queue>>>(
        g.bits, g.before, blocks, Divisor::of(a_cloud > 0 ? a_cloud : 1), Divisor::of(plane), Divisor::of(line),
        int32_t(g.grid.first), batch, results.coordinates, results.offsets);
  }
  if (n == 0) return;
  assign_kernel<<<blocks_for(n, kThreads), kThreads, 0, queue>>>(g.bits, g.before, g.slot, n, counts, g.local, g.row,
                                                                 results.point_to_voxel);
  if (!g.values || rows == 0) return;
  cub::DeviceScan::ExclusiveSum(g.scratch, scratch, reinterpret_cast<uint32_t*>(counts), g.start, rows, queue);
  place_kernel<<<blocks_for(n, kThreads), kThreads, 0, queue>>>(g.row, g.start, g.local, n, g.order);
}

}  // namespace robocache
