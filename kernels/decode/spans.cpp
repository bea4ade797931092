#include "decode/spans.h"

namespace robocache::decode {

bool concatenate(const Messages& spans, int64_t item, uint8_t* out, int64_t nbytes) {
  int64_t at = 0;
  for (int64_t i = 0; i < spans.count; ++i) {
    const int64_t size = spans.size[i];
    if (!spans.within(i) || size > nbytes - at) return false;
    if (!size) continue;
    std::memcpy(out + at, spans.buffer + spans.start[i], static_cast<size_t>(size));
    if (item > 1) swap_items(out + at, size - size % item, item);
    at += size;
  }
  return at == nbytes;
}

bool distinct(const Messages& spans, int64_t* which, Contents& contents) {
  for (int64_t i = 0; i < spans.count; ++i) {
    if (!spans.within(i)) return false;
    which[i] = contents.code(spans.buffer + spans.start[i], spans.size[i], i);
  }
  return true;
}

}  // namespace robocache::decode
