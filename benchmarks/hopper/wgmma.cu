// Prototype: interpolation as a product of a banded matrix and the samples, on Hopper's matrix units (WGMMA), through
// CuTe. 64 neighbouring targets of one episode depend on at most kSamples neighbouring samples:
//
//   out[64, 128] = W[64, kSamples] x samples[kSamples, 128]
//
// with two weights in each row of W (linear), 1 - w and w; or four (kTaps = 4: the Catmull-Rom spline, which is linear
// in the samples; the shipped PCHIP is not, its slopes are harmonic means of the samples' differences, and no matrix
// makes it).
//
// Work:    a block of one warpgroup a tile of 64 targets. Its threads search and write W; meanwhile the copy engine
//          brings the samples (TMA, a tensor map of [batch, length, 128]); then kSamples / 16 products of 64 x 128 x 16.
// Shared:  samples kSamples x 128 bf16 (36 KiB, 128-byte swizzle), W 64 x kSamples bf16 (18 KiB a part, 32-byte
//          swizzle), results 64 x 136 bf16 over the samples (a row's 16 spare bytes keep its neighbours off its banks).
// Weights: bf16 has 8 bits, so a weight is off by up to 2^-9; with kParts = 2 it is the sum of two bf16 (16 bits) and
//          the product is done twice.
#include <cute/tensor.hpp>
#include <cutlass/arch/barrier.h>
#include <cutlass/bfloat16.h>
#include <cutlass/cluster_launch.hpp>

#include "prototype.cuh"

namespace robocache::align {
namespace {

using Value = cute::bfloat16_t;
constexpr int kM = 64, kN = 128, kSamples = 144;  // 2 samples a target: 130, rounded up to 16
constexpr int kPitch = kN + 8;

// Swizzles that WGMMA's descriptors know. Samples lie column by column for it (N neighbours are contiguous), weights
// row by row (K neighbours are).
using SamplesLayout = decltype(cute::tile_to_shape(cute::GMMA::Layout_MN_SW128_Atom<Value>{},
                                                   cute::Shape<cute::Int<kN>, cute::Int<kSamples>>{}));
using WeightsLayout = decltype(cute::tile_to_shape(cute::GMMA::Layout_K_SW32_Atom<Value>{},
                                                   cute::Shape<cute::Int<kM>, cute::Int<kSamples>>{}));
// One warpgroup's product: M 64, N 128, K 16; A and B from shared memory, accumulators in float32 registers (64 a
// thread); A's K and B's N contiguous.
using Product = decltype(cute::make_tiled_mma(
    cute::SM90_64x128x16_F32BF16BF16_SS<cute::GMMA::Major::K, cute::GMMA::Major::MN>{}));

template <int kParts> struct alignas(1024) Shared {
  union {
    alignas(1024) Value samples[cute::cosize_v<SamplesLayout>];
    alignas(16) Value results[kM * kPitch];
  };
  alignas(1024) Value weights[kParts][cute::cosize_v<WeightsLayout>];
  alignas(8) uint64_t full;
};

template <int kTaps, int kParts, class Copy>
__global__ void __launch_bounds__(128)
    wgmma_kernel(const __grid_constant__ Streams<kFew> launch, const __grid_constant__ Targets targets,
                 const __grid_constant__ Output out, const __grid_constant__ Copy copy, int* misfits) {
  using namespace cute;
  extern __shared__ uint4 block_shared[];
  auto& shared = *reinterpret_cast<Shared<kParts>*>(
      (reinterpret_cast<uintptr_t>(block_shared) + 1023) & ~uintptr_t(1023));
  const Source& s = launch.s[0];
  const int thread = int(threadIdx.x);
  const int64_t row0 = int64_t(blockIdx.x) * kM;
  const Tensor samples = make_tensor(make_smem_ptr(shared.samples), SamplesLayout{});
  if (thread == 0) {
    barrier_init(&shared.full, 1);
    fence_for_bulk();
  }
  for (int i = thread; i < int(sizeof(shared.weights) / 16); i += 128) {
    reinterpret_cast<uint4*>(&shared.weights[0][0])[i] = uint4{};
  }
  // Both half blocks search, so that no warp waits for another one's values.
  const Cursor<int64_t> c(launch, s, targets, 0, row0 + thread % kM);
  const Window<int64_t> window = window_of(c, s);
  const Stencil<float, int> stencil = stencil_of<Mode::linear, float>(s, c, window);
  __shared__ int begin;
  if (thread == 0) begin = max(stencil.first - (kTaps == 4 ? 1 : 0), 0);
  __syncthreads();
  if (thread == 0) {
    const Tensor all = copy.get_tma_tensor(make_shape(int(s.dim), int(s.length), int(targets.batch)));
    const Tensor moved = domain_offset(make_coord(0, begin, 0), all);
    const Tensor block = local_tile(moved(_, _, c.batch), cute::Shape<Int<kN>, Int<kSamples>>{}, make_coord(0, 0));
    const auto slice = copy.get_slice(0);
    barrier_expect(&shared.full, unsigned(sizeof(Value) * kN * kSamples));
    cute::copy(copy.with(shared.full), slice.partition_S(block), slice.partition_D(samples));
  }
  if (thread < kM) {
    const int last = stencil.second + (kTaps == 4 && stencil.second + 1 < window.n ? 1 : 0) - begin;
    if (last >= kSamples) atomicAdd(misfits, 1);
    const float w = stencil.weight;
    const auto put = [&](int sample, float weight) {
      const int k = min(max(sample, 0), window.n - 1) - begin;
      if (k < 0 || k >= kSamples) return;
      float rest = weight;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        Tensor weights = make_tensor(make_smem_ptr(shared.weights[part]), WeightsLayout{});
        const Value rounded(rest);
        weights(thread, k) = Value(float(weights(thread, k)) + float(rounded));  // an edge sample may come twice
        rest -= float(rounded);
      }
    };
    if (stencil.first == stencil.second) {
      put(stencil.first, 1.0f);
    } else if (kTaps == 2) {
      put(stencil.first, 1.0f - w);
      put(stencil.second, w);
    } else {  // Catmull-Rom of evenly spaced samples
      const float w2 = w * w, w3 = w2 * w;
      put(stencil.first - 1, -0.5f * w3 + w2 - 0.5f * w);
      put(stencil.first, 1.5f * w3 - 2.5f * w2 + 1.0f);
      put(stencil.second, -1.5f * w3 + 2.0f * w2 + 0.5f * w);
      put(stencil.second + 1, 0.5f * w3 - 0.5f * w2);
    }
    out.valid[row0 + thread] = stencil.valid;
  }
  fence_for_bulk();  // the matrix units read the weights as the copy engine would
  __syncthreads();
  barrier_wait(&shared.full, 0);

  const Product product;
  const auto part_of = product.get_thread_slice(thread);
  const Tensor b = part_of.make_fragment_B(part_of.partition_B(samples));
  Tensor sum = partition_fragment_C(product, cute::Shape<Int<kM>, Int<kN>>{});
  clear(sum);
  warpgroup_fence_operand(sum);
  warpgroup_arrive();
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const Tensor weights = make_tensor(make_smem_ptr(shared.weights[part]), WeightsLayout{});
    const Tensor a = part_of.make_fragment_A(part_of.partition_A(weights));
    gemm(product, a, b, sum);
  }
  warpgroup_commit_batch();
  warpgroup_wait<0>();
  warpgroup_fence_operand(sum);
  __syncthreads();  // all warps have read the samples: results take their place

  const Tensor results =
      make_tensor(make_smem_ptr(shared.results), Layout<cute::Shape<Int<kM>, Int<kN>>, Stride<Int<kPitch>, _1>>{});
  Tensor mine = part_of.partition_C(results);
#pragma unroll
  for (int i = 0; i < size(sum); i += 2) {  // two neighbours of a row are two registers
    uint32_t two;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(sum(i + 1)), "f"(sum(i)));
    *reinterpret_cast<uint32_t*>(&mine(i)) = two;
  }
  fence_for_bulk();
  __syncthreads();
  if (thread < kM) {
    bulk_store(static_cast<Value*>(out.data) + (row0 + thread) * kN, shared.results + thread * kPitch,
               kN * unsigned(sizeof(Value)));
    bulk_commit();
    bulk_wait_read<0>();
  }
}

template <int kTaps, int kParts> int run(const Call& c, int* misfits) {
  using namespace cute;
  const Streams<kFew> p = streams_of(c);
  const Tensor values = make_tensor(make_gmem_ptr(static_cast<const Value*>(c.values)),
                                    make_shape(int(c.dim), int(c.length), int(c.batch)),
                                    make_stride(_1{}, c.dim, c.dim * c.length));
  const auto copy = make_tma_copy(SM90_TMA_LOAD{}, values, SamplesLayout{}, cute::Shape<Int<kN>, Int<kSamples>>{}, _1{});
  const auto kernel = wgmma_kernel<kTaps, kParts, std::remove_const_t<decltype(copy)>>;
  const int shared = int(sizeof(Shared<kParts>)) + 1024;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  kernel<<<unsigned(c.rows / kM), 128, shared, c.queue>>>(p, targets_of(c), output_of(c), copy, misfits);
  return int(cudaGetLastError());
}

}  // namespace
}  // namespace robocache::align

// Dense bf16 of 128 columns, targets a multiple of 64. misfits: counts targets whose samples were not among the tile's.
extern "C" int wgmma_linear(const robocache::align::Call* c, int taps, int parts, int* misfits) {
  using namespace robocache::align;
  if (!c->bf16 || c->dim != kN || c->target_length % kM || c->offsets || c->target_offsets) return -1;
  if (taps == 4) return parts == 1 ? run<4, 1>(*c, misfits) : run<4, 2>(*c, misfits);
  return parts == 1 ? run<2, 1>(*c, misfits) : run<2, 2>(*c, misfits);
}
