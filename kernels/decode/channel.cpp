#include "decode/channel.h"

namespace robocache::decode {

Channel::Channel(uint16_t id, const Program& program, std::vector<int64_t> counts, std::vector<Slot> slots,
                 int64_t* times, int64_t capacity)
    : id_(id), program_(program), counts_(std::move(counts)), slots_(std::move(slots)), times_(times),
      capacity_(capacity) {
  good_ = capacity > 0 && check(program_, capacity, counts_, slots_);
  for (const Slot& slot : slots_) {
    // What an element holds decides which is picked, and texts lie where the next chunk will be.
    const bool left_out = !slot.data && (slot.kind == Slot::kSpans || slot.kind == Slot::kNothing);
    good_ = good_ && slot.kind != Slot::kHaving && (slot.data ? slot.kind != Slot::kSpans : left_out);
  }
  found_.differs.resize(counts_.size(), 0);
  contents_.resize(slots_.size());
  for (Contents& content : contents_) content.keep();
}

bool Channel::take(const uint8_t* buffer, int64_t length, const Entries& entries) {
  if (!good_) return false;
  good_ = false;
  if (entries.count > capacity_ - rows_) return false;
  const size_t count = static_cast<size_t>(entries.count);
  if (start_.size() < count) start_.resize(count), size_.resize(count);
  int64_t* const log_times = times_ + rows_;
  const Located located{start_.data(), size_.data(), log_times, log_times + capacity_};
  if (!locate(buffer, length, id_, {entries}, located) || !take_messages(buffer, entries.count)) return false;
  for (const uint8_t differs : found_.differs) {
    if (differs) return false;
  }
  for (const Contents& content : contents_) {
    if (!content.whole()) return false;
  }
  rows_ += entries.count;
  return good_ = true;
}

bool Channel::take_messages(const uint8_t* buffer, int64_t count) {
  const int64_t lead = program_.packing.encapsulation;
  for (int64_t i = 0; i < count; ++i) {  // which `locate` has found within the chunk
    const uint8_t* data = buffer + start_[static_cast<size_t>(i)];
    const int64_t size = size_[static_cast<size_t>(i)] - lead;
    if (size < 0) return false;
    const int64_t order = lead >= 2 ? order_of(data) : 1;
    if (!walk_) {
      if (order == kRefused) return false;
      order_ = order;
      walk_ = std::make_unique<Walk<false>>(program_, messages_, counts_.data(), slots_.data(), &found_, &contents_,
                                            (order == 1) != kHostLittle);
    }
    if (order != order_) return false;
    const int64_t row = rows_ + i;
    if (!walk_->again(data + lead, size, row) && !walk_->lead(data + lead, size, row)) return false;
  }
  return true;
}

std::vector<std::vector<std::string_view>> Channel::texts() const {
  std::vector<std::vector<std::string_view>> found;
  for (const Contents& content : contents_) found.push_back(content.texts());
  return found;
}

}  // namespace robocache::decode
