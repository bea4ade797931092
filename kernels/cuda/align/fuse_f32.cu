// The CUDA kernels for float times.
#include "fuse_impl.cuh"

template void robocache::align::fuse_as<float>(const Stream*, const Targets&, const Output&, cudaStream_t);
