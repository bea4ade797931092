// The CUDA kernels for double times.
#include "fuse_impl.cuh"

template void robocache::align::fuse_as<double>(const Stream*, const Targets&, const Output&, cudaStream_t);
