// The CUDA kernels for int64_t times and mixtures of values; fuse_i64_*.cu have those for values of one dtype.
#include "fuse_impl.cuh"

namespace robocache::align {

extern template void fuse_same<int64_t, float>(const Stream*, const Targets&, const Output&, cudaStream_t);
extern template void fuse_same<int64_t, double>(const Stream*, const Targets&, const Output&, cudaStream_t);
extern template void fuse_same<int64_t, BFloat16>(const Stream*, const Targets&, const Output&, cudaStream_t);
extern template void fuse_same<int64_t, Half>(const Stream*, const Targets&, const Output&, cudaStream_t);
template void fuse_as<int64_t>(const Stream*, const Targets&, const Output&, cudaStream_t);

}  // namespace robocache::align
