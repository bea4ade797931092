// The CPU kernel's door: one function, whose instruction set is chosen when first called.
#pragma once
#include "robocache/types.h"

namespace robocache::cpu {

// Aligns rows [begin, end) of the batch, every stream; the caller splits rows over threads. Rows are independent:
// any split gives the same bytes.
void fuse_rows(TimeType time_type, const Stream* streams, const Targets& targets, const Output& out, int64_t begin,
               int64_t end);

// "avx512", "avx2" or "baseline".
const char* instruction_set();

// First i with times[i] NaN or below times[i - 1], or -1.
int64_t first_unsorted(TimeType type, const void* times, int64_t n);

}  // namespace robocache::cpu
