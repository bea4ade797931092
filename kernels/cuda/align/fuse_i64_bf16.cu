// The CUDA kernels for int64_t times and BFloat16 values alone.
#include "fuse_impl.cuh"

namespace robocache::align {

template void fuse_same<int64_t, BFloat16>(const Stream*, const Targets&, const Output&, cudaStream_t);

}  // namespace robocache::align
