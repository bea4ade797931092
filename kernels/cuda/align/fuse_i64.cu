// The CUDA kernels for int64_t times.
#include "fuse_impl.cuh"

template void robocache::align::fuse_as<int64_t>(const Stream*, const Targets&, const Output&, cudaStream_t);
