// Prototype: narrow rows through Hopper's copy engine (bulk copies of the tensor memory accelerator, completing on an
// mbarrier), in blocks that stay: as many as fit on the card, each warp taking tile after tile.
//
// Work:    a warp takes tiles of 32 targets, kStages of them at a time. While one tile's rows are made, the samples of
//          the others are on their way, and after a tile is done the next one's stamps are searched while its results
//          leave. So nothing is guessed: the span is copied when the brackets are known.
// Shared:  a warp: kStages times `stage` bytes of samples, two output tiles of 32 x D values, kStages mbarriers.
// Bytes:   as the shipped kernel (narrow.cuh), whose search and arithmetic it uses.
#include "prototype.cuh"

namespace robocache::align {
namespace {

// A tile whose samples are on their way.
struct Job {
  int64_t row;
  int rows;       // 0: no tile
  int first;      // elements from the begin of the stage to this lane's first row
  int apart;      // to its second
  float weight;
  bool copy, valid, staged, some;
};

template <class V, int kStages>
__global__ void __launch_bounds__(kThreads) bulk_kernel(const __grid_constant__ Streams<kFew> launch,
                                                        const __grid_constant__ Targets targets,
                                                        const __grid_constant__ Output out, unsigned stage) {
  extern __shared__ uint4 block_shared[];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Source& s = launch.s[0];
  const int dim = int(s.dim);
  const V* values = static_cast<const V*>(s.values);
  char* mine = reinterpret_cast<char*>(block_shared) + warp * launch.shared;
  uint64_t* full = reinterpret_cast<uint64_t*>(mine);
  char* samples = mine + 64;
  V* results = reinterpret_cast<V*>(samples + kStages * stage);
  if (lane == 0) {
    for (int k = 0; k < kStages; ++k) barrier_init(full + k, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    fence_for_bulk();
  }
  __syncwarp();

  const int64_t tiles = (targets.rows + kRows - 1) / kRows, together = int64_t(gridDim.x) * kWarps;
  int64_t next = int64_t(blockIdx.x) * kWarps + warp;
  int episode = targets.offsets ? episode_of<kThreads>(targets.offsets, int(targets.batch), int64_t(blockIdx.x) * kWarps * kRows) : 0;
  const auto begin = [&](int k) -> Job {
    Job job{};
    if (next >= tiles) return job;
    job.row = next * kRows;
    next += together;
    job.rows = int(min(targets.rows - job.row, int64_t(kRows)));
    const Cursor<int64_t> c(launch, s, targets, episode, job.row + min(int(lane), job.rows - 1));
    episode = __shfl_sync(~0u, c.batch, 0);
    const Window<int64_t> window = window_of(c, s);
    const Stencil<float, int> stencil = stencil_of<Mode::linear, float>(s, c, window);
    job.some = window.n > 0;
    job.weight = stencil.weight;
    job.valid = stencil.valid;
    job.copy = stencil.first == stencil.second;
    const int64_t first = window.base + int64_t(stencil.first) * dim, stop = window.base + int64_t(stencil.second + 1) * dim;
    const int64_t low = __shfl_sync(~0u, first, 0), high = __shfl_sync(~0u, stop, 31);
    const uintptr_t at = reinterpret_cast<uintptr_t>(values + low);
    const unsigned skip = unsigned(at) & 15;
    const int64_t bytes = (high - low) * int64_t(sizeof(V)) + skip;
    const int64_t whole = (bytes + 15) & ~int64_t(15);
    const bool inside = (s.values_end - low) * int64_t(sizeof(V)) + skip >= whole;
    job.staged = __all_sync(~0u, job.some && first >= low && stop <= high) && whole <= stage && inside;
    if (job.staged) {
      job.first = int(first - low) + int(skip / sizeof(V));
      job.apart = (stencil.second - stencil.first) * dim;
      if (lane == 0) {
        barrier_expect(full + k, unsigned(whole));
        bulk_load(samples + k * stage, reinterpret_cast<const char*>(at - skip), unsigned(whole), full + k);
      }
    } else {  // read where it lies; 32 bits are enough for a prototype's episodes
      job.first = int(first - window.base);
      job.apart = (stencil.second - stencil.first) * dim;
    }
    return job;
  };
  int made = 0;
  unsigned parity = 0;  // a bit a stage
  const auto finish = [&](const Job& job, int k) {
    if (job.staged) {
      barrier_wait(full + k, (parity >> k) & 1);
      parity ^= 1u << k;
    }
    V* tile = results + (made & 1) * kRows * dim;
    ++made;
    if (lane == 0) bulk_wait_read<1>();  // the tile before the last one has left
    __syncwarp();
    V* y = tile + lane * dim;
    const Stencil<float, int> stencil{0, job.copy ? 0 : 1, job.weight, job.valid, false};
    if (job.staged) {
      const V* a = reinterpret_cast<const V*>(samples + k * stage) + job.first;
      linear_row<true>(dim, stencil, a, a + job.apart, y);
    } else if (job.some) {
      const Cursor<int64_t> c(launch, s, targets, targets.offsets ? 0 : episode, job.row + min(int(lane), job.rows - 1));
      const V* a = values + c.base + job.first;
      linear_row<false>(dim, stencil, a, a + job.apart, y);
    } else {
      for (int c = 0; c < dim; ++c) store(y + c, not_a_number<float>());
    }
    if (int(lane) < job.rows) out.valid[job.row + lane] = job.valid;
    if (job.rows == kRows) {
      fence_for_bulk();
      __syncwarp();
      if (lane == 0) {
        bulk_store(static_cast<char*>(out.data) + job.row * launch.row_bytes, tile, kRows * dim * unsigned(sizeof(V)));
        bulk_commit();
      }
    } else {
      __syncwarp();
      const TileRows here{out, launch.row_bytes, job.row, job.rows};
      write_tile<V>(s, here.tile(s), tile);
      __syncwarp();
    }
  };
  Job jobs[kStages];
#pragma unroll
  for (int k = 0; k < kStages; ++k) jobs[k] = begin(k);
  for (bool on = true; on;) {
#pragma unroll
    for (int k = 0; k < kStages; ++k) {
      if (!on) break;
      if (jobs[k].rows == 0) {
        on = false;
        break;
      }
      finish(jobs[k], k);
      jobs[k] = begin(k);
    }
  }
  if (lane == 0) bulk_wait_read<0>();  // shared memory must outlive what reads it
}

template <class V, int kStages> int run(const Call& c, int blocks) {
  Streams<kFew> p = streams_of(c);
  const Targets targets = targets_of(c);
  const unsigned stage = unsigned(staging_bytes(p.s[0], targets) + 127) / 128 * 128;
  if (stage == 0) return -1;
  p.shared = (64 + kStages * stage + 2 * kRows * unsigned(c.dim * sizeof(V)) + kOverread + 127) / 128 * 128;
  const auto kernel = bulk_kernel<V, kStages>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kWarps * p.shared));
  int fit = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, kernel, kThreads, kWarps * p.shared);
  kernel<<<multiprocessors() * (blocks ? min(blocks, fit) : fit), kThreads, kWarps * p.shared, c.queue>>>(
      p, targets, output_of(c), stage);
  return int(cudaGetLastError());
}

}  // namespace
}  // namespace robocache::align

// blocks: an SM, 0: as many as fit. Returns a CUDA error, or -1 where the rows are not narrow.
extern "C" int bulk_linear(const robocache::align::Call* c, int stages, int blocks) {
  using namespace robocache::align;
  using robocache::BFloat16;
  switch (stages) {
    case 1: return c->bf16 ? run<BFloat16, 1>(*c, blocks) : run<float, 1>(*c, blocks);
    case 2: return c->bf16 ? run<BFloat16, 2>(*c, blocks) : run<float, 2>(*c, blocks);
    case 3: return c->bf16 ? run<BFloat16, 3>(*c, blocks) : run<float, 3>(*c, blocks);
    default: return c->bf16 ? run<BFloat16, 4>(*c, blocks) : run<float, 4>(*c, blocks);
  }
}
