// A program over the messages of a window, one message after another.
#include <algorithm>

#include "decode/walk.h"

namespace robocache::decode {
namespace {

// The messages of a channel lie apart, others between them: their memory is asked for so many messages before.
constexpr int64_t kAhead = 8, kReach = 512, kLine = 64;  // bytes of each, and of what memory gives at once

// The encapsulation that all messages have; 1 where the packing has none, which is little endian then.
int64_t common_order(const Program& program, const Messages& messages, int64_t count) {
  const int64_t lead = program.packing.encapsulation;
  for (int64_t i = 0; i < count; ++i) {
    if (!messages.within(i) || messages.size[i] < lead) return kRefused;
  }
  return lead >= 2 && count ? order_of(messages.buffer + messages.start[0]) : 1;
}

}  // namespace

bool measure(const Program& program, const Messages& messages, std::vector<int64_t>& counts) {
  const int64_t lead = program.packing.encapsulation;
  if (!messages.count) return false;
  const int64_t order = common_order(program, messages, 1);
  if (order == kRefused) return false;
  Walk<true> walk(program, messages, counts.data(), nullptr, nullptr, nullptr, (order == 1) != kHostLittle);
  Cursor cursor{messages.buffer + messages.start[0] + lead, messages.size[0] - lead, 0};
  return walk.steps(program.code, program.code + program.length, cursor, 0, 0, false);
}

Found run(const Program& program, const Messages& messages, const std::vector<int64_t>& counts,
          const std::vector<Slot>& slots) {
  Found found;
  const int64_t lead = program.packing.encapsulation;
  const int64_t order = common_order(program, messages, messages.count);
  if (order == kRefused) return found;
  found.differs.resize(counts.size(), 0);
  std::vector<int64_t> known = counts;
  std::vector<Contents> contents(slots.size());
  Walk<false> walk(program, messages, known.data(), slots.data(), &found, &contents, (order == 1) != kHostLittle);
  for (int64_t i = 0; i < messages.count; ++i) {
    if (i + kAhead < messages.count) {
      const uint8_t* next = messages.buffer + messages.start[i + kAhead];
      const int64_t nbytes = std::min<int64_t>(messages.size[i + kAhead], kReach);
      for (int64_t k = 0; k < nbytes; k += kLine) __builtin_prefetch(next + k);
    }
    const uint8_t* data = messages.buffer + messages.start[i];
    if (lead && order_of(data) != order) return found;
    const int64_t size = messages.size[i] - lead;
    if (!walk.again(data + lead, size, i) && !walk.lead(data + lead, size, i)) return found;
  }
  found.order = order;
  for (Contents& content : contents) found.firsts.push_back(std::move(content.first));
  return found;
}

namespace {

// The slot that an address is in, and how far.
bool place_of(const uint8_t* at, const std::vector<Slot>& slots, int64_t& slot, int64_t& offset) {
  for (size_t k = 0; k < slots.size(); ++k) {
    if (slots[k].data <= at && at < slots[k].data + slots[k].nbytes) {
      slot = static_cast<int64_t>(k), offset = at - slots[k].data;
      return true;
    }
  }
  return false;
}

}  // namespace

bool lay_out(const Program& program, const Messages& messages, const std::vector<int64_t>& counts,
             const std::vector<Slot>& slots, Laid& laid) {
  const int64_t lead = program.packing.encapsulation;
  laid.order = common_order(program, messages, std::min<int64_t>(messages.count, 1));
  if (laid.order == kRefused || messages.count != 1) return false;
  Found found;
  found.differs.resize(counts.size(), 0);
  std::vector<int64_t> known = counts;
  std::vector<Contents> contents(slots.size());
  Walk<false> walk(program, messages, known.data(), slots.data(), &found, &contents, (laid.order == 1) != kHostLittle);
  const uint8_t* data = messages.buffer + messages.start[0] + lead;
  if (!walk.lead(data, messages.size[0] - lead, 0)) return false;
  const Layout& layout = walk.layout();
  for (const uint8_t differs : found.differs) {
    if (differs) return false;
  }
  if (!layout.known()) return false;
  laid.nbytes = lead + layout.nbytes();
  if (lead >= 2) laid.same.insert(laid.same.end(), {0, 2});  // the encapsulation
  for (const Layout::Word& word : layout.words) laid.same.insert(laid.same.end(), {lead + word.offset, 4});
  for (const Layout::Text& text : layout.texts) laid.same.insert(laid.same.end(), {lead + text.offset, text.size});
  int64_t slot = 0, offset = 0;
  for (const Layout::Copy& copy : layout.copies) {
    if (!place_of(copy.target, slots, slot, offset)) return false;
    laid.copies.insert(laid.copies.end(), {lead + copy.source, copy.nbytes, copy.item, slot, offset});
  }
  for (const Layout::Time& time : layout.times) {
    if (!place_of(time.target, slots, slot, offset)) return false;
    laid.times.insert(laid.times.end(), {lead + time.source, time.item, time.factor, time.flags, slot});
  }
  for (const Layout::Span& span : layout.spans) {
    if (!place_of(reinterpret_cast<const uint8_t*>(span.target), slots, slot, offset)) return false;
    laid.spans.insert(laid.spans.end(), {lead + span.offset, span.size, slot});
  }
  return true;
}

}  // namespace robocache::decode
