// The CUDA kernel's door. No torch, no allocation, no synchronisation: one launch on the given stream for up to 240
// streams, one more for each further 240.
#pragma once
#include <cuda_runtime_api.h>

#include "robocache/types.h"

namespace robocache::cuda {

void fuse(TimeType time_type, const Stream* streams, const Targets& targets, const Output& out, cudaStream_t queue);

}  // namespace robocache::cuda
