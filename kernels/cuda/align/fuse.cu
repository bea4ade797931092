// The choice of kernels by time dtype.
#include "fuse.h"

namespace robocache {

namespace align {
template <class Time> void fuse_as(const Stream*, const Targets&, const Output&, cudaStream_t);
}

void cuda::fuse(align::TimeType time_type, const align::Stream* streams, const align::Targets& targets,
                const align::Output& out, cudaStream_t queue) {
  switch (time_type) {
    case align::TimeType::i64: return align::fuse_as<int64_t>(streams, targets, out, queue);
    case align::TimeType::f64: return align::fuse_as<double>(streams, targets, out, queue);
    default: return align::fuse_as<float>(streams, targets, out, queue);
  }
}

}  // namespace robocache
