// The door to alignment on the CPU.
#pragma once
#include "robocache/align/types.h"

namespace robocache::cpu {

// Aligns rows [begin, end) of the batch, every stream; the caller splits rows over threads. Rows are independent:
// any split gives the same bytes.
void fuse_rows(align::TimeType time_type, const align::Stream* streams, const align::Targets& targets,
               const align::Output& out, int64_t begin, int64_t end);

// First i with times[i] NaN or below times[i - 1], or -1.
int64_t first_unsorted(align::TimeType type, const void* times, int64_t n);

}  // namespace robocache::cpu
