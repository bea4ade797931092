// Which voxels hold a point, and the row of each point among them. Two ways, for the same rows:
//
// By bits (rows rise by cell; grids of up to 2^31 voxels that are not much larger than the points are many): a sector
// of 32 bytes has the bits of 224 voxels and, in its last word, how many are set before it
//   mark     each point sets its voxel's bit (atomicOr) and keeps the bit's number, and whether it was set before;
//            the lanes of a warp in one voxel ask once. 12 bytes in (float32), 4 out
//   scan     set bits before each sector, cub's single-pass scan with decoupled look-back; a seventh of a byte a voxel.
//            Rows and their order follow from the bits alone: nothing is sorted
//   emit     coordinates and a count of one for the set bits: a warp takes 32 words, lists their bits in shared memory
//            (2 KiB a warp) and writes the rows side by side; 16 bytes a voxel
//   assign   a point's row from its sector; 4 bytes in, 8 out. The point that set the bit becomes the row's head, the
//            others count themselves (atomicAdd, once for the lanes of a warp in one voxel)
//   place    only where values are wanted: the counts' scan says where each row's other points begin
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
#include <thrust/iterator/permutation_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include "points.cuh"
#include "voxelize.h"

namespace robocache {
namespace {

using cuda::RowResults;
using cuda::VoxelGroups;

constexpr uint32_t kVoxelsABlock = 224, kBitsABlock = 256;  // a sector; its last word is the scan's
constexpr uint32_t kExtra = 0x80000000u;  // of a slot: the voxel's bit had been set before
constexpr uint64_t kEmpty = ~uint64_t(0);
// Bits are cleared, scanned and looked through: this many bytes of them a point cost less than sorting the voxels.
constexpr int64_t kBitBytesAPoint = 64, kBitBytesAlways = 1 << 24;

int64_t blocks_a_cloud(const voxel::Grid& grid) {
  return (grid.cells() + kVoxelsABlock - 1) / kVoxelsABlock;
}
int64_t bit_blocks(const VoxelGroups& g) { return g.points.batch * blocks_a_cloud(g.grid); }

__device__ uint32_t lower_lanes() { return (1u << (threadIdx.x % 32)) - 1; }

// ---- by bits --------------------------------------------------------------------------------------------------------

template <class V>
__global__ void __launch_bounds__(kThreads)
    mark_bits_kernel(const PointSet<V> points, const __grid_constant__ GridCells cells, uint32_t cloud_blocks,
                     uint32_t* bits, uint32_t* slot, unsigned long long* dropped) {
  each_point<2>(points, cells, dropped, [&](int64_t i, int64_t cloud, int64_t cell) {
    const uint32_t c = uint32_t(cell), block = c / kVoxelsABlock;
    const uint32_t bit =
        cell < 0 ? kNone : (uint32_t(cloud) * cloud_blocks + block) * kBitsABlock + (c - block * kVoxelsABlock);
    const uint32_t same = __match_any_sync(__activemask(), bit), mask = 1u << bit % 32;
    bool set = true;
    if (cell >= 0 && !(same & lower_lanes())) set = atomicOr(bits + bit / 32, mask) & mask;
    slot[i] = set ? bit | kExtra : bit;
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
    return __popc(a.x) + __popc(a.y) + __popc(a.z) + __popc(a.w) + __popc(b.x) + __popc(b.y) + __popc(b.z);
  }
};
struct LastWord {
  __host__ __device__ int64_t operator()(int64_t block) const { return 8 * block + 7; }
};
// Points of a row beside its head.
struct ExtrasOf {
  const int32_t* counts;
  const uint32_t* rows;
  __device__ uint32_t operator()(int64_t row) const { return row < *rows ? counts[row] - 1 : 0; }
};

__device__ uint32_t row_of_bit(const uint32_t* bits, uint32_t bit) {
  const uint32_t block = bit / kBitsABlock, word = bit / 32 % 8;
  const uint4* at = reinterpret_cast<const uint4*>(bits) + 2 * block;
  const uint4 a = at[0], b = at[1];
  const uint32_t words[7] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z};
  uint32_t row = b.w;
#pragma unroll
  for (uint32_t w = 0; w < 7; ++w) {
    row += __popc(words[w] & (w < word ? ~0u : w == word ? (1u << bit % 32) - 1 : 0));
  }
  return row;
}

// The voxel of a bit: its number among those of all clouds.
struct BitGrid {
  Divisor a_cloud;  // blocks
  Divisor plane, line;
  int32_t first_x;
};

// A word a lane, four blocks a warp. The first threads also write the clouds' offsets.
__global__ void __launch_bounds__(kThreads)
    emit_bits_kernel(const uint32_t* bits, int64_t blocks, BitGrid grid, int64_t batch, int32_t* coordinates,
                     int32_t* counts, int64_t* offsets) {
  __shared__ uint16_t set[kThreads / 32][1024];
  const int64_t word = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (offsets) {
    for (int64_t b = word; b <= batch; b += int64_t(gridDim.x) * kThreads) {
      offsets[b] = bits[8 * b * grid.a_cloud.d + 7];
    }
  }
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t all = word < 8 * blocks ? bits[word] : 0;
  const uint32_t row = __shfl_sync(~0u, all, 7);  // before the first block
  uint32_t mine = word % 8 < 7 ? all : 0, sum = __popc(mine);
  const uint32_t own = sum;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  const uint32_t total = __shfl_sync(~0u, sum, 31);
  if (total == 0) return;
  for (uint32_t r = lane; r < total; r += 32) counts[row + r] = 1;
  if (!coordinates) return;
  uint16_t* list = set[threadIdx.x / 32];
  for (uint32_t at = sum - own; mine; mine &= mine - 1) list[at++] = uint16_t(lane * 32 + __ffs(mine) - 1);
  __syncwarp();
  const uint32_t begin = uint32_t(word - lane) / 8;
  int32_t* to = coordinates + 3 * int64_t(row);
  for (uint32_t e = lane; e < 3 * total; e += 32) {
    const uint32_t bit = list[e / 3], axis = e % 3, block = begin + bit / kBitsABlock;
    const uint32_t cloud = grid.a_cloud.quotient(block);
    const uint32_t cell = (block - cloud * grid.a_cloud.d) * kVoxelsABlock + bit % kBitsABlock;
    const uint32_t x = grid.plane.quotient(cell), rest = cell - x * grid.plane.d, y = grid.line.quotient(rest);
    to[e] = axis == 0 ? int32_t(x) + grid.first_x : int32_t(axis == 1 ? y : rest - y * grid.line.d);
  }
}

__global__ void __launch_bounds__(kThreads)
    assign_kernel(const uint32_t* bits, const uint32_t* slot, int64_t count, int32_t* counts, uint32_t* head,
                  uint32_t* local, uint32_t* extra_row, int64_t* point_to_voxel) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const uint32_t bit = i < count ? slot[i] : kNone;
  const uint32_t row = bit == kNone ? kNone : row_of_bit(bits, bit & ~kExtra);
  const bool extra = bit != kNone && bit & kExtra;
  uint32_t place = 0;
  if (__any_sync(~0u, extra)) {
    const uint32_t same = __match_any_sync(~0u, extra ? row : kNone);
    const int leader = __ffs(same) - 1;
    if (extra && int(threadIdx.x % 32) == leader) place = atomicAdd(counts + row, __popc(same));
    place = __shfl_sync(~0u, place, leader) - 1 + __popc(same & lower_lanes());  // the head does not count here
  }
  if (i >= count) return;
  if (point_to_voxel) point_to_voxel[i] = row == kNone ? -1 : int64_t(row);
  if (!head) return;  // no values
  if (row != kNone && !extra) head[row] = uint32_t(i);
  local[i] = place;
  extra_row[i] = extra ? row : kNone;
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
__global__ void __launch_bounds__(kThreads, 3)  // three: without it the compiler aims at 64 registers and spills
    insert_kernel(const PointSet<V> points, const __grid_constant__ GridCells cells, uint64_t voxels, uint32_t slots,
                  int shift, uint64_t* keys, uint32_t* first, uint32_t* held, uint32_t* slot, uint32_t* local,
                  unsigned long long* dropped) {
  each_point<1>(points, cells, dropped, [&](int64_t i, int64_t cloud, int64_t cell) {
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

struct Shape {
  int64_t voxels, plane, line, first_x;
  __device__ void write(uint64_t key, int32_t* to) const {
    const int64_t cell = int64_t(key % uint64_t(voxels)), rest = cell % plane;
    to[0] = int32_t(cell / plane + first_x);
    to[1] = int32_t(rest / line);
    to[2] = int32_t(rest % line);
  }
};

// Rows in the order of their first points, and the clouds' offsets. To be sorted: the rows' keys, counts, places and
// numbers. Else results.
template <bool kSort>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(const FirstOf firsts, const uint64_t* scan, const uint64_t* keys, const int64_t* point_offsets,
                int64_t length, int64_t batch, Shape shape, int32_t* coordinates, uint32_t* slot_row,
                uint64_t* row_keys, uint32_t* row_held, uint32_t* row_start, uint32_t* row_number, int64_t* offsets) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (offsets) {
    for (int64_t b = i; b <= batch; b += int64_t(gridDim.x) * kThreads) {
      offsets[b] = int64_t(scan[point_offsets ? point_offsets[b] : b * length] >> 32);
    }
  }
  if (i >= firsts.count) return;
  const uint64_t found = firsts(i);
  if (found == 0) return;
  const uint32_t row = uint32_t(scan[i] >> 32), s = firsts.slot[i];
  slot_row[s] = row;
  row_held[row] = uint32_t(found);
  row_start[row] = uint32_t(scan[i]);
  if constexpr (kSort) {
    row_keys[row] = keys[s];
    row_number[row] = row;
  } else if (coordinates) {
    shape.write(keys[s], coordinates + 3 * int64_t(row));
  }
}

__global__ void __launch_bounds__(kThreads)
    sorted_rows_kernel(const uint32_t* rows, const uint64_t* sorted_keys, const uint32_t* row_held,
                       const uint32_t* row_start, const uint32_t* row_old, Shape shape, int32_t* coordinates,
                       int32_t* counts, uint32_t* start, uint32_t* row_new) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= *rows) return;
  const uint32_t old = row_old[r];
  counts[r] = int32_t(row_held[old]);
  if (start) start[r] = row_start[old];
  row_new[old] = uint32_t(r);
  if (coordinates) shape.write(sorted_keys[r], coordinates + 3 * r);
}

__global__ void __launch_bounds__(kThreads)
    hashed_rows_kernel(const uint32_t* slot, const uint32_t* slot_row, const uint32_t* row_new, const uint32_t* start,
                       const uint32_t* local, int64_t count, uint32_t* order, int64_t* point_to_voxel) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const uint32_t s = slot[i], first = s == kNone ? kNone : slot_row[s];
  const uint32_t row = s == kNone || !row_new ? first : row_new[first];
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

auto counting() { return thrust::counting_iterator<int64_t>(0); }
auto bits_of(const VoxelGroups& g) {
  return thrust::make_transform_iterator(counting(), BitsOf{g.bits, bit_blocks(g)});
}
auto last_words(const VoxelGroups& g) {
  return thrust::make_permutation_iterator(g.bits, thrust::make_transform_iterator(counting(), LastWord{}));
}
auto extras_of(const VoxelGroups& g, const int32_t* counts) {
  return thrust::make_transform_iterator(counting(), ExtrasOf{counts, g.rows});
}
auto firsts_of(const VoxelGroups& g) {
  return thrust::make_transform_iterator(counting(), FirstOf{g.slot, g.first, g.held, g.points.count});
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
    cub::DeviceScan::ExclusiveSum(nullptr, bytes, firsts_of(g), g.scan, g.points.count + 1), seen();
    if (!g.by_first_point) {
      cub::DeviceRadixSort::SortPairs(nullptr, bytes, g.row_keys, g.sorted_keys, g.row_new, g.row_old, g.limit), seen();
    }
  } else {
    cub::DeviceScan::ExclusiveSum(nullptr, bytes, bits_of(g), last_words(g), bit_blocks(g) + 1), seen();
    if (g.values) cub::DeviceScan::ExclusiveSum(nullptr, bytes, extras_of(g, nullptr), g.start, g.limit), seen();
  }
  return most;
}

}  // namespace

cuda::VoxelGroups cuda::plan_groups(const voxel::Points& points, const voxel::Grid& grid, bool by_first_point,
                                    bool values) {
  VoxelGroups g{};
  g.points = points, g.grid = grid, g.by_first_point = by_first_point, g.values = values;
  const int64_t n = points.count, voxels = points.batch * grid.cells(), bits = bit_blocks(g) * kBitsABlock;
  g.limit = n < voxels ? n : voxels;
  g.hashed = by_first_point || bits >= kDivisible || bits / 8 > kBitBytesAPoint * n + kBitBytesAlways;
  g.scratch_bytes = scratch_needed(g);
  place_groups(g, nullptr);
  return g;
}

void cuda::place_groups(VoxelGroups& g, void* workspace) {
  const int64_t n = g.points.count;
  size_t at = 0;
  const auto take = [&](auto*& pointer, int64_t count) {
    at = (at + 255) & ~size_t(255);
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(static_cast<char*>(workspace) + at);
    at += size_t(count) * sizeof *pointer;
  };
  take(g.slot, n);
  take(g.counts, g.limit);
  if (g.values || g.hashed) take(g.local, n);
  if (g.values) take(g.order, n);
  if (g.values || g.hashed) take(g.start, g.limit);
  if (g.hashed) {
    const int64_t slots = slots_of(g);
    take(g.keys, slots), take(g.first, slots), take(g.held, slots);  // side by side: filled by one call
    take(g.slot_row, slots), take(g.scan, n + 1);
    if (!g.by_first_point) {
      take(g.row_keys, g.limit), take(g.row_held, g.limit), take(g.row_start, g.limit), take(g.row_new, g.limit);
      take(g.sorted_keys, g.limit), take(g.row_old, g.limit);
    }
    g.rows = reinterpret_cast<const uint32_t*>(g.scan + n) + 1;  // the upper half, little-endian
  } else {
    const int64_t blocks = bit_blocks(g);
    take(g.bits, 8 * (blocks + 1));
    if (g.values) take(g.extra_row, n), take(g.head, g.limit);
    g.rows = g.bits + 8 * blocks + 7;
  }
  char* scratch;
  take(scratch, int64_t(g.scratch_bytes));
  g.scratch = scratch;
  g.bytes = at;
}

void cuda::find_groups(const VoxelGroups& g, int64_t* dropped, cudaStream_t queue) {
  size_t scratch = g.scratch_bytes;
  const int64_t n = g.points.count;
  const Piece none_dropped{dropped, g.points.batch * int64_t(sizeof *dropped), 0};
  auto* lost = reinterpret_cast<unsigned long long*>(dropped);
  if (g.hashed) {
    const int64_t slots = slots_of(g);
    fill({g.keys, reinterpret_cast<char*>(g.held + slots) - reinterpret_cast<char*>(g.keys), 0xff}, none_dropped,
         queue);
    if (n > 0) {
      with_dtype(g.points.rows.dtype, [&](auto v) {
        insert_kernel<<<blocks_for(n, kThreads), kThreads, 0, queue>>>(
            PointSet<decltype(v)>::of(g.points), GridCells::of(g.grid), uint64_t(g.grid.cells()), uint32_t(slots),
            shift_of(slots), g.keys, g.first, g.held, g.slot, g.local, lost);
      });
    }
    cub::DeviceScan::ExclusiveSum(g.scratch, scratch, firsts_of(g), g.scan, n + 1, queue);
    return;
  }
  const int64_t blocks = bit_blocks(g);
  fill({g.bits, blocks * int64_t(kBitsABlock / 8), 0}, none_dropped, queue);
  if (n > 0) {
    with_dtype(g.points.rows.dtype, [&](auto v) {
      mark_bits_kernel<<<blocks_for(n, 2 * kThreads), kThreads, 0, queue>>>(
          PointSet<decltype(v)>::of(g.points), GridCells::of(g.grid), uint32_t(blocks_a_cloud(g.grid)), g.bits, g.slot,
          lost);
    });
  }
  cub::DeviceScan::ExclusiveSum(g.scratch, scratch, bits_of(g), last_words(g), blocks + 1, queue);
}

void cuda::number_groups(const VoxelGroups& g, const RowResults& results, int64_t rows, cudaStream_t queue) {
  size_t scratch = g.scratch_bytes;
  const int64_t n = g.points.count, batch = g.points.batch;
  int32_t* counts = results.counts ? results.counts : reinterpret_cast<int32_t*>(g.counts);
  const int64_t plane = g.grid.shape[1] * g.grid.shape[2], line = g.grid.shape[2];
  if (g.hashed) {
    const FirstOf firsts{g.slot, g.first, g.held, n};
    const Shape shape{g.grid.cells(), plane, line, g.grid.first};
    const unsigned blocks = blocks_for(n > 0 ? n : 1, kThreads);
    if (g.by_first_point) {
      rows_kernel<false><<<blocks, kThreads, 0, queue>>>(
          firsts, g.scan, g.keys, g.points.offsets, g.points.length, batch, shape, results.coordinates, g.slot_row,
          nullptr, reinterpret_cast<uint32_t*>(counts), g.start, nullptr, results.offsets);
    } else {
      rows_kernel<true><<<blocks, kThreads, 0, queue>>>(firsts, g.scan, g.keys, g.points.offsets, g.points.length,
                                                        batch, shape, nullptr, g.slot_row, g.row_keys, g.row_held,
                                                        g.row_start, g.row_new, results.offsets);
      if (rows > 0) {
        cub::DeviceRadixSort::SortPairs(g.scratch, scratch, g.row_keys, g.sorted_keys, g.row_new, g.row_old, rows, 0,
                                        key_bits(g), queue);
        sorted_rows_kernel<<<blocks_for(rows, kThreads), kThreads, 0, queue>>>(
            g.rows, g.sorted_keys, g.row_held, g.row_start, g.row_old, shape, results.coordinates, counts, g.start,
            g.row_new);
      }
    }
    if (n == 0) return;
    hashed_rows_kernel<<<blocks, kThreads, 0, queue>>>(g.slot, g.slot_row, g.by_first_point ? nullptr : g.row_new,
                                                       g.start, g.local, n, g.order, results.point_to_voxel);
    return;
  }
  const int64_t blocks = bit_blocks(g), a_cloud = blocks_a_cloud(g.grid);
  emit_bits_kernel<<<blocks_for(blocks > 0 ? 8 * blocks : 1, kThreads), kThreads, 0, queue>>>(
      g.bits, blocks,
      BitGrid{Divisor::of(a_cloud > 0 ? a_cloud : 1), Divisor::of(plane), Divisor::of(line), int32_t(g.grid.first)},
      a_cloud > 0 ? batch : -1, results.coordinates, counts, results.offsets);
  if (a_cloud == 0 && results.offsets) fill({results.offsets, (batch + 1) * 8, 0}, {}, queue);
  if (n == 0) return;
  assign_kernel<<<blocks_for(n, kThreads), kThreads, 0, queue>>>(g.bits, g.slot, n, counts, g.head, g.local,
                                                                 g.extra_row, results.point_to_voxel);
  if (!g.values || rows == 0) return;
  cub::DeviceScan::ExclusiveSum(g.scratch, scratch, extras_of(g, counts), g.start, rows, queue);
  place_kernel<<<blocks_for(n, kThreads), kThreads, 0, queue>>>(g.extra_row, g.start, g.local, n, g.order);
}

}  // namespace robocache
