#include "decode/spans.h"

#include <map>
#include <string_view>

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

bool distinct(const Messages& spans, int64_t* which, std::vector<int64_t>& first) {
  // A tree, which no choice of contents makes slow. It is asked only where a span differs from the one before.
  std::map<std::string_view, int64_t> known;
  std::string_view before;
  int64_t code = -1;
  for (int64_t i = 0; i < spans.count; ++i) {
    if (!spans.within(i)) return false;
    const std::string_view content(reinterpret_cast<const char*>(spans.buffer) + spans.start[i],
                                   static_cast<size_t>(spans.size[i]));
    if (code < 0 || content != before) {
      const auto [place, fresh] = known.try_emplace(content, static_cast<int64_t>(first.size()));
      if (fresh) first.push_back(i);
      code = place->second;
      before = content;
    }
    which[i] = code;
  }
  return true;
}

}  // namespace robocache::decode
