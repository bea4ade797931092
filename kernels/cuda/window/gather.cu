// Windows of rows: a gather that moves bytes and computes nothing but where they are.
//
// A block takes one column: a piece of a long window, or several short windows, a group of threads each. So a launch
// has blocks for every column at once, and no thread goes through the columns one after the other. A window whose rows
// follow each other and lie in its episode is one run of memory; its threads have four accesses under way each.
// Bytes:  what comes out once; of what is read, rows that windows share come from the cache.
#include "gather.h"

#include <algorithm>

#include "cuda/common/pack.cuh"
#include "robocache/core/divisor.h"
#include "robocache/window/gather.h"

namespace robocache {
namespace {

using window::Column;
using window::kMostColumns;
using window::Rows;

constexpr int kThreads = 128, kAhead = 4, kPiece = 8 * kThreads;  // units of a window that a block takes at most

struct Task {
  Column column;
  Divisor by_units;
  uint32_t all;     // units of a window
  int32_t lanes;    // threads of a window, a power of two
  uint32_t pieces;  // of a window, each a block's; 1 where a block has several windows
  uint32_t block;   // the first of its blocks
};
struct Tasks {
  Task task[kMostColumns];
  int count;
};

template <class U>
__device__ void move(const Task& t, const window::Around& a, int64_t w, uint32_t begin, uint32_t end) {
  const Column& c = t.column;
  const U* __restrict__ from = reinterpret_cast<const U*>(c.from);
  U* __restrict__ to = reinterpret_cast<U*>(c.to) + w * t.all;
  const int lanes = t.lanes;
  const int64_t start = a.own + c.steps[0];
  if (c.run && start >= a.first && start + c.count - 1 <= a.last) {
    from += start * c.units;
    for (uint32_t u = begin; u < end; u += kAhead * lanes) {
      U held[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (u + i * lanes < end) held[i] = from[u + i * lanes];
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (u + i * lanes < end) store_streaming(to + u + i * lanes, held[i]);
      }
    }
    return;
  }
  for (uint32_t u = begin; u < end; u += lanes) {
    const uint32_t k = t.by_units.quotient(u);
    const int64_t wanted = a.own + c.steps[k], at = window::within(wanted, a.first, a.last);
    const bool outside = at != wanted;
    U value = *reinterpret_cast<const U*>(c.fill);
    if (!(outside && c.filled)) value = from[at * c.units + (u - k * uint32_t(c.units))];
    store_streaming(to + u, value);
  }
}

// Whether steps lead out of the episode.
__device__ void tell(const Task& t, const window::Around& a, int64_t w, uint32_t begin, uint32_t end) {
  for (uint32_t k = begin; k < end; k += t.lanes) {
    const int64_t wanted = a.own + t.column.steps[k];
    t.column.to[w * t.all + k] = wanted < a.first || wanted > a.last;
  }
}

__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ Tasks tasks, const Rows rows) {
  int n = 0;
  while (n + 1 < tasks.count && tasks.task[n + 1].block <= blockIdx.x) ++n;
  const Task& t = tasks.task[n];
  const uint32_t block = blockIdx.x - t.block, group = threadIdx.x / t.lanes, lane = threadIdx.x % t.lanes;
  int64_t w;
  uint32_t begin = lane, end = t.all;
  if (t.pieces > 1) {
    w = block / t.pieces;
    begin = (block - uint32_t(w) * t.pieces) * kPiece;
    end = min(begin + kPiece, t.all);
    begin += lane;
  } else {
    w = int64_t(block) * (kThreads / t.lanes) + group;
  }
  if (w >= rows.windows) return;
  const window::Around a = window::around(rows, w);
  if (t.column.from == nullptr) {
    tell(t, a, w, begin, end);
    return;
  }
  switch (t.column.unit) {
    case 16: move<Pack<uint32_t, 4>>(t, a, w, begin, end); break;
    case 8: move<Pack<uint32_t, 2>>(t, a, w, begin, end); break;
    case 4: move<Pack<uint32_t, 1>>(t, a, w, begin, end); break;
    case 2: move<Pack<uint16_t, 1>>(t, a, w, begin, end); break;
    default: move<Pack<uint8_t, 1>>(t, a, w, begin, end);
  }
}

}  // namespace

void cuda::gather_windows(const Column* columns, int count, const Rows& rows, cudaStream_t queue) {
  for (int done = 0; done < count; done += kMostColumns) {
    Tasks tasks{};
    uint32_t blocks = 0;
    for (const Column* c = columns + done; c < columns + std::min(count, done + kMostColumns); ++c) {
      Task t{*c, Divisor::of(std::max(1, c->units)), uint32_t(c->count) * uint32_t(c->units), 1, 1, blocks};
      if (t.all == 0) continue;
      while (t.lanes < kThreads && uint32_t(t.lanes) < t.all) t.lanes *= 2;
      t.pieces = (t.all + kPiece - 1) / kPiece;
      const int64_t each = kThreads / t.lanes;
      blocks += uint32_t(t.pieces > 1 ? rows.windows * t.pieces : (rows.windows + each - 1) / each);
      tasks.task[tasks.count++] = t;
    }
    if (blocks > 0) gather_kernel<<<blocks, kThreads, 0, queue>>>(tasks, rows);
  }
}

}  // namespace robocache
