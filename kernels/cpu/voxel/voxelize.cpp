// Voxels on the CPU. Scatter and gather leave nothing to wider registers: one instruction set serves all machines.
#include "voxelize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#define RC_ISA isa_baseline
#include "robocache/core/storage.h"
#include "robocache/voxel/cell.h"
#include "robocache/voxel/ray.h"
#include "robocache/voxel/reduce.h"

namespace robocache::cpu {
namespace {

using namespace voxel;

template <class F> void with_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f64: return f(double());
    case DType::f32: return f(float());
    case DType::f16: return f(Half());
    default: return f(BFloat16());
  }
}

// visit(i, row) for the points [begin, end) of a batch.
template <class V, class Visit> void each_row(const Points& p, int64_t begin, int64_t end, const Visit& visit) {
  const V* data = static_cast<const V*>(p.rows.data);
  if (p.offsets || p.length == 0) {
    for (int64_t i = begin; i < end; ++i) visit(i, data + i * p.rows.row_stride);
    return;
  }
  for (int64_t i = begin; i < end;) {
    const int64_t cloud = i / p.length, stop = std::min(end, (cloud + 1) * p.length);
    const V* at = data + cloud * p.rows.batch_stride + (i - cloud * p.length) * p.rows.row_stride;
    for (; i < stop; ++i, at += p.rows.row_stride) visit(i, at);
  }
}

// A bit a voxel, and how many are set before each word: the row of a voxel among those that are set.
class Bitmap {
 public:
  Bitmap(const int64_t* cell, int64_t n, int64_t cells) : words_(size_t(cells / 64 + 1)), before_(words_.size()) {
    for (int64_t i = 0; i < n; ++i) {
      if (cell[i] >= 0) words_[size_t(cell[i] >> 6)] |= uint64_t(1) << (cell[i] & 63);
    }
    for (size_t w = 0; w < words_.size(); ++w) {
      before_[w] = set_;
      set_ += __builtin_popcountll(words_[w]);
    }
  }
  int64_t set() const { return set_; }
  int64_t row(int64_t cell) const {
    const size_t w = size_t(cell >> 6);
    return before_[w] + __builtin_popcountll(words_[w] & ((uint64_t(1) << (cell & 63)) - 1));
  }
  void list(int64_t* cells) const {
    for (size_t w = 0; w < words_.size(); ++w) {
      for (uint64_t left = words_[w]; left; left &= left - 1) *cells++ = int64_t(w) * 64 + __builtin_ctzll(left);
    }
  }

 private:
  std::vector<uint64_t> words_;
  std::vector<int64_t> before_;
  int64_t set_ = 0;
};

// Rows of voxels in the order in which they are first asked for: open addressing, at most half full.
class Table {
 public:
  explicit Table(int64_t most) {
    while (int64_t(slots_.size()) < 2 * most + 2) slots_.resize(std::max<size_t>(16, 2 * slots_.size()));
    shift_ = 64 - __builtin_ctzll(slots_.size());
  }
  int64_t row(int64_t cell, std::vector<int64_t>& cells) {
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
    for (size_t s = size_t((uint64_t(cell) * 0x9e3779b97f4a7c15u) >> shift_);; s = (s + 1) & (slots_.size() - 1)) {
      if (slots_[s].row < 0) {
        slots_[s] = {cell, int64_t(cells.size())};
        cells.push_back(cell);
      }
      if (slots_[s].cell == cell) return slots_[s].row;
    }
  }

 private:
  struct Slot {
    int64_t cell = 0, row = -1;
  };
  std::vector<Slot> slots_;
  int shift_;
};

// A bitmap is swept word by word: worth it up to this many words a point.
constexpr int64_t kWordsPerPoint = 8;

}  // namespace

void voxel_cells(const Points& points, const Grid& grid, int64_t begin, int64_t end, int64_t* cell) {
  const Cells cells = cells_of(grid);
  with_dtype(points.rows.dtype, [&](auto v) {
    each_row<decltype(v)>(points, begin, end, [&](int64_t i, const auto* p) {
      cell[i] = cell_of(cells, double(load(p)), double(load(p + 1)), double(load(p + 2)));
    });
  });
}

int64_t mark_cells(const int64_t* cell, int64_t n, bool* occupied) {
  int64_t dropped = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (cell[i] < 0) ++dropped;
    else occupied[cell[i]] = true;
  }
  return dropped;
}

int64_t count_cells(const int64_t* cell, int64_t n, int32_t* counts) {
  int64_t dropped = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (cell[i] < 0) ++dropped;
    else ++counts[cell[i]];
  }
  return dropped;
}

VoxelRows group_cells(int64_t* cell, int64_t n, int64_t cells, bool by_first_point) {
  VoxelRows rows;
  if (!by_first_point && cells / 64 <= kWordsPerPoint * n) {
    const Bitmap bitmap(cell, n, cells);
    rows.cells.resize(size_t(bitmap.set()));
    bitmap.list(rows.cells.data());
    for (int64_t i = 0; i < n; ++i) {
      if (cell[i] >= 0) cell[i] = bitmap.row(cell[i]);
    }
  } else {
    Table table(n);
    for (int64_t i = 0; i < n; ++i) {
      if (cell[i] >= 0) cell[i] = table.row(cell[i], rows.cells);
    }
    if (!by_first_point) {
      std::vector<int64_t> order(rows.cells.size()), place(rows.cells.size());
      std::iota(order.begin(), order.end(), int64_t(0));
      std::sort(order.begin(), order.end(),
                [&](int64_t a, int64_t b) { return rows.cells[size_t(a)] < rows.cells[size_t(b)]; });
      for (size_t r = 0; r < order.size(); ++r) place[size_t(order[r])] = int64_t(r);
      std::sort(rows.cells.begin(), rows.cells.end());
      for (int64_t i = 0; i < n; ++i) {
        if (cell[i] >= 0) cell[i] = place[size_t(cell[i])];
      }
    }
  }
  rows.counts.resize(rows.cells.size());
  for (int64_t i = 0; i < n; ++i) {
    if (cell[i] < 0) ++rows.dropped;
    else ++rows.counts[size_t(cell[i])];
  }
  return rows;
}

void reduce_rows(Reduction reduce, const Rows& features, const int64_t* row, int64_t n, const VoxelRows& rows,
                 const int64_t* place, int64_t most, void* out) {
  // The points of each row side by side, in input order.
  const size_t count = rows.cells.size();
  std::vector<int64_t> next(count), point(size_t(n - rows.dropped));
  for (size_t r = 1; r < count; ++r) next[r] = next[r - 1] + rows.counts[r - 1];
  for (int64_t i = 0; i < n; ++i) {
    if (row[i] >= 0) point[size_t(next[size_t(row[i])]++)] = i;
  }
  with_dtype(features.dtype, [&](auto v) {
    using V = decltype(v);
    const V* data = static_cast<const V*>(features.data);
    V* to = static_cast<V*>(out);
    const int64_t width = features.width;
    for (size_t r = 0; r < count; ++r) {
      const int64_t held = rows.counts[r], *points = point.data() + next[r] - held;
      if (reduce == Reduction::points) {
        V* at = to + int64_t(r) * most * width;
        const int64_t kept = std::min(held, most);
        for (int64_t k = 0; k < kept; ++k) {
          std::memcpy(at + k * width, data + points[k] * features.row_stride, size_t(width) * sizeof(V));
        }
        std::memset(static_cast<void*>(at + kept * width), 0, size_t((most - kept) * width) * sizeof(V));
        continue;
      }
      V* at = to + (place ? place[r] : int64_t(r)) * width;
      for (int64_t c = 0; c < width; ++c) {
        put(at + c, reduced<V>(reduce, held, [&](int64_t k) { return data + points[k] * features.row_stride + c; }));
      }
    }
  });
}

void cast_rays(const Points& points, int64_t begin, int64_t end, int64_t cloud, const Grid& grid, const double* pose,
               double truncation, int64_t* total, int32_t* count) {
  const Pose sensor = Pose::at(pose + 7 * cloud);
  const int64_t most = most_steps(grid, truncation);
  with_dtype(points.rows.dtype, [&](auto v) {
    each_row<decltype(v)>(points, begin, end, [&](int64_t, const auto* p) {
      const Vector point{double(load(p)), double(load(p + 1)), double(load(p + 2))};
      walk_ray(grid, sensor, point, truncation, most, [&](int64_t cell, int64_t distance) {
        total[cell] += distance;
        ++count[cell];
      });
    });
  });
}

void fuse_rays(const int64_t* total, const int32_t* count, int64_t begin, int64_t end, double truncation,
               float* distance, float* weight) {
  for (int64_t i = begin; i < end; ++i) fuse_tsdf(distance[i], weight[i], total[i], count[i], truncation);
}

}  // namespace robocache::cpu
