// Prototype: streams of many episodes with the same stamps and the same targets. A cluster of kCluster blocks takes the
// same 128 targets of as many episodes; each block searches for its part of them and writes what it finds into the
// shared memory of all (distributed shared memory), so that a target is searched once a cluster, not once an episode.
//
// Work:    block r of a cluster: targets [0, 128) of episode kCluster * group + r. Its threads below 128 / kCluster
//          search; after the cluster's barrier its four warps sweep the rows, 16 bytes an access.
// Shared:  128 entries of 16 bytes.
// Bytes:   values and results as the shipped kernel (wide.cuh); stamps and targets a kCluster-th, from L2.
#include <cooperative_groups.h>

#include "prototype.cuh"

namespace robocache::align {
namespace {

constexpr int kTargets = 128;

struct Found {
  int first, second;
  float weight;
  int valid;
};

template <class V, int kCluster>
__global__ void __launch_bounds__(kThreads) cluster_kernel(const __grid_constant__ Streams<kFew> launch,
                                                           const __grid_constant__ Targets targets,
                                                           const __grid_constant__ Output out) {
  namespace cg = cooperative_groups;
  constexpr int VEC = 16 / int(sizeof(V)), U = 2;
  __shared__ Found found[kTargets];
  const Source& s = launch.s[0];
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = int(blockIdx.x % kCluster), place = int(blockIdx.x / kCluster);
  const int pieces = int((targets.length + kTargets - 1) / kTargets);
  const int64_t episode = int64_t(place / pieces) * kCluster + rank;
  const int begin = place % pieces * kTargets;
  const int rows = min(int(targets.length) - begin, kTargets);
  const bool mine = episode < targets.batch;
  constexpr int kPart = kTargets / kCluster;
  if (kCluster > 1) cluster.sync();  // the others have begun: their shared memory may be written
  if (int(threadIdx.x) < kPart) {
    const int row = rank * kPart + int(threadIdx.x);
    const Cursor<int64_t> c(launch, s, targets, 0, begin + min(row, rows - 1));
    const Window<int64_t> window = window_of(c, s);
    const Stencil<float, int> stencil = stencil_of<Mode::linear, float>(s, c, window);
    const Found entry{stencil.first, stencil.second, stencil.weight, stencil.valid};
#pragma unroll
    for (int r = 0; r < kCluster; ++r) {
      *(kCluster > 1 ? cluster.map_shared_rank(&found[row], r) : &found[row]) = entry;
    }
  }
  if (kCluster > 1) {
    cluster.sync();
  } else {
    __syncthreads();
  }
  if (!mine) return;
  const V* x = static_cast<const V*>(s.values) + episode * s.value_batch_stride;
  const int64_t row0 = episode * targets.length + begin;
  if (int(threadIdx.x) < rows) out.valid[row0 + threadIdx.x] = found[threadIdx.x].valid;
  const Tile tile = TileRows{out, launch.row_bytes, row0, rows}.tile(s);
  const unsigned accesses = unsigned(s.dim / VEC), total = unsigned(rows) * accesses;
  const Divisor per_row = s.accesses;
  for (unsigned e0 = threadIdx.x; e0 < total; e0 += kThreads * U) {
    Pack<V, VEC> a[U], b[U];
    unsigned row[U], at[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const unsigned e = e0 + kThreads * u;
      row[u] = min(per_row.quotient(e), unsigned(kTargets - 1));
      at[u] = (e - row[u] * accesses) * VEC;
      if (e < total) {
        a[u] = load_pack<VEC>(x + int64_t(found[row[u]].first) * s.dim + at[u]);
        b[u] = load_pack<VEC>(x + int64_t(found[row[u]].second) * s.dim + at[u]);
      }
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (e0 + kThreads * u >= total) break;
      const Found f = found[row[u]];
      float y[VEC];
#pragma unroll
      for (int v = 0; v < VEC; ++v) {
        const float x0 = load(a[u].v + v), x1 = load(b[u].v + v);
        y[v] = f.first == f.second ? x0 : lerp(f.weight, x0, x1);
      }
      store_values<V>(tile, row[u], at[u], y);
    }
  }
}

template <class V, int kCluster> int run(const Call& c) {
  Streams<kFew> p = streams_of(c);
  p.s[0].accesses = Divisor::of(c.dim * int64_t(sizeof(V)) / 16);
  const int64_t pieces = (c.target_length + kTargets - 1) / kTargets, groups = (c.batch + kCluster - 1) / kCluster;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(pieces * groups * kCluster));
  config.blockDim = dim3(kThreads);
  config.stream = c.queue;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kCluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return int(cudaLaunchKernelEx(&config, cluster_kernel<V, kCluster>, p, targets_of(c), output_of(c)));
}

}  // namespace
}  // namespace robocache::align

// Dense, rows of whole 16 bytes, stamps and targets shared by all episodes (their strides 0).
extern "C" int cluster_linear(const robocache::align::Call* c, int cluster) {
  using namespace robocache::align;
  using robocache::BFloat16;
  switch (cluster) {
    case 1: return c->bf16 ? run<BFloat16, 1>(*c) : run<float, 1>(*c);
    case 2: return c->bf16 ? run<BFloat16, 2>(*c) : run<float, 2>(*c);
    case 4: return c->bf16 ? run<BFloat16, 4>(*c) : run<float, 4>(*c);
    default: return c->bf16 ? run<BFloat16, 8>(*c) : run<float, 8>(*c);
  }
}
