// Spans of a buffer, one a message: brought together, or told apart.
#pragma once
#include <cstdint>
#include <vector>

#include "decode/bytes.h"

namespace robocache::decode {

// Copy all one behind the other, the numbers of `item` bytes in them with their bytes in the other order where that is
// more than 1. False where a span is not within the buffer or all together are not `nbytes`.
bool concatenate(const Messages& spans, int64_t item, uint8_t* out, int64_t nbytes);

// Which of the distinct contents each span has: codes counted in the order in which they occur, `which` has one for
// each span. `first`: the first span of each content. False where a span is not within the buffer.
bool distinct(const Messages& spans, int64_t* which, std::vector<int64_t>& first);

}  // namespace robocache::decode
