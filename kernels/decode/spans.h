// Spans of a buffer, one a message: brought together, or told apart.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "decode/bytes.h"

namespace robocache::decode {

// Contents seen so far, with their codes: 0, 1, 2... in the order in which they occur.
class Contents {
 public:
  // The code of the content of `size` bytes that item `i` has. It must stay where it is, unless contents are kept.
  int64_t code(const uint8_t* data, int64_t size, int64_t i) {
    const std::string_view content(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    if (code_ >= 0 && content == before_) return code_;
    // A tree, which no choice of contents makes slow; asked where a content is another than the one before.
    auto place = known_.find(content);
    if (place == known_.end()) {
      place = known_.emplace(keep_ ? kept(content) : content, static_cast<int64_t>(first.size())).first;
      first.push_back(i);
    }
    before_ = place->first;
    return code_ = place->second;
  }

  // Copy each content that comes, up to kMostKept bytes of them.
  void keep() { keep_ = true; }
  bool whole() const { return bytes_ <= kMostKept; }
  // In the order of their codes.
  std::vector<std::string_view> texts() const { return {copies_.begin(), copies_.end()}; }

  std::vector<int64_t> first;  // the item that had each first

 private:
  // Names and frames are few; texts that differ from message to message are not for this.
  static constexpr size_t kMostKept = 1 << 16;

  std::string_view kept(std::string_view content) {
    bytes_ += content.size() + sizeof(std::string);
    return copies_.emplace_back(whole() ? content : std::string_view());
  }

  std::map<std::string_view, int64_t> known_;
  std::deque<std::string> copies_;  // which does not move what it holds
  std::string_view before_;
  size_t bytes_ = 0;
  int64_t code_ = -1;
  bool keep_ = false;
};

// Copy all one behind the other, the numbers of `item` bytes in them with their bytes in the other order where that is
// more than 1. False where a span is not within the buffer or all together are not `nbytes`.
bool concatenate(const Messages& spans, int64_t item, uint8_t* out, int64_t nbytes);

// Which of the distinct contents each span has: a code for each in `which`. False where a span is not within the
// buffer.
bool distinct(const Messages& spans, int64_t* which, Contents& contents);

}  // namespace robocache::decode
