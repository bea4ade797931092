// The choice of kernels by time dtype.
#include "fuse.h"

namespace robocache {

template <class Time> void fuse_as(const Stream*, const Targets&, const Output&, cudaStream_t);

void cuda::fuse(TimeType time_type, const Stream* streams, const Targets& targets, const Output& out,
                cudaStream_t queue) {
  switch (time_type) {
    case TimeType::i64: return fuse_as<int64_t>(streams, targets, out, queue);
    case TimeType::f64: return fuse_as<double>(streams, targets, out, queue);
    default: return fuse_as<float>(streams, targets, out, queue);
  }
}

}  // namespace robocache
