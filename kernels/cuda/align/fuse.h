// The CUDA kernel's door. No torch, no allocation, no synchronisation: one launch on the given stream for up to 232
// streams, one more for each further 232.
#pragma once
#include <cuda_runtime_api.h>

#include "robocache/align/types.h"

namespace robocache::cuda {

void fuse(align::TimeType time_type, const align::Stream* streams, const align::Targets& targets,
          const align::Output& out, cudaStream_t queue);

}  // namespace robocache::cuda
