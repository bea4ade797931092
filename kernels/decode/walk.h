// Leading over packed messages by a program's steps: what each message has is put where the program's slots are.
#pragma once
#include <algorithm>

#include "decode/spans.h"
#include "decode/steps.h"

namespace robocache::decode {

// The byte order that the encapsulation names: its second byte, or kRefused where it is not plain CDR.
inline int64_t order_of(const uint8_t* data) { return data[0] == 0 && data[1] <= 1 ? data[1] : kRefused; }

// A message, or an element that is laid out as one; `at` is the cursor.
struct Cursor {
  const uint8_t* data;
  int64_t size;
  int64_t at;

  void align(int64_t item) { at += -at & (item - 1); }
  // Whether `count` elements of `nbytes` follow. Both have been bounded, so that their product is an int64; an element
  // of nothing counts as a byte, so that no count runs away.
  bool has(int64_t count, int64_t nbytes) const {
    return at <= size && count * std::max<int64_t>(nbytes, 1) <= size - at;
  }
};

inline void copy(uint8_t* target, const uint8_t* source, int64_t nbytes) {
  switch (nbytes) {  // of a known size it is a few instructions
    case 4: std::memcpy(target, source, 4); break;
    case 8: std::memcpy(target, source, 8); break;
    case 16: std::memcpy(target, source, 16); break;
    case 24: std::memcpy(target, source, 24); break;
    case 32: std::memcpy(target, source, 32); break;
    case 48: std::memcpy(target, source, 48); break;
    case 56: std::memcpy(target, source, 56); break;
    default: std::memcpy(target, source, static_cast<size_t>(nbytes));
  }
}

inline int64_t time_of(const uint8_t* number, int64_t item, bool is_signed, bool swap, int64_t factor) {
  uint8_t bytes[8];
  std::memcpy(bytes, number, static_cast<size_t>(item));
  if (swap) swap_items(bytes, item, item);
  uint64_t value = 0;
  if (item == 1) value = is_signed ? static_cast<uint64_t>(load<int8_t>(bytes)) : bytes[0];
  if (item == 2) value = is_signed ? static_cast<uint64_t>(load<int16_t>(bytes)) : load<uint16_t>(bytes);
  if (item == 4) value = is_signed ? static_cast<uint64_t>(load<int32_t>(bytes)) : load<uint32_t>(bytes);
  if (item == 8) value = load<uint64_t>(bytes);
  return static_cast<int64_t>(value * static_cast<uint64_t>(factor));  // it may wrap, as any number of a damaged file
}

// What leading over one message came to: where its lengths stand, and what was put where. A message that has the same
// lengths in the same places is laid out alike, whatever else it holds, so that the steps need not be gone through.
class Layout {
 public:
  struct Word {
    int64_t offset;
    uint32_t value;
  };
  struct Copy {
    int64_t source, nbytes, item;
    uint8_t* target;  // of the first message
    int64_t stride;
  };
  struct Time {
    int64_t source, item, factor, flags;
    uint8_t* target;
  };
  struct Span {
    int64_t offset, size;
    int64_t* target;
  };
  struct Text {
    int64_t offset, size;
    int64_t* target;
    Contents* contents;
  };

  void begin(const uint8_t* message) {
    message_ = message;
    words.clear(), copies.clear(), times.clear(), spans.clear(), texts.clear();
    known_ = true;
  }
  void end(int64_t nbytes) {
    end_ = nbytes;
    known_ = known_ && words.size() + copies.size() + times.size() + spans.size() + texts.size() <= kMost;
  }
  void lose() { known_ = false; }
  int64_t offset(const uint8_t* at) const { return at - message_; }

  bool fits(const uint8_t* data, int64_t size) const {
    if (!known_ || size < end_) return false;
    for (const Word& word : words) {
      if (load<uint32_t>(data + word.offset) != word.value) return false;
    }
    return true;
  }

  bool known() const { return known_; }
  int64_t nbytes() const { return end_; }

  std::vector<Word> words;
  std::vector<Copy> copies;
  std::vector<Time> times;
  std::vector<Span> spans;
  std::vector<Text> texts;

 private:
  static constexpr size_t kMost = 1024;  // of a message of very many pieces a new one is hardly ever alike
  const uint8_t* message_ = nullptr;
  int64_t end_ = 0;
  bool known_ = false;
};

// kMeasure: nothing is put anywhere; counts are noted where otherwise they are compared.
template <bool kMeasure> class Walk {
 public:
  Walk(const Program& program, const Messages& messages, int64_t* counts, const Slot* slots, Found* found,
       std::vector<Contents>* contents, bool swap)
      : program_(program),
        messages_(messages),
        aligned_(program.packing.aligned),
        nul_(program.packing.nul),
        swap_(swap),
        counts_(counts),
        slots_(slots),
        found_(found),
        contents_(contents) {}

  // A message that is laid out as the one before, which `lead` has led over. False: it is not.
  bool again(const uint8_t* data, int64_t size, int64_t message) const {
    if (!layout_.fits(data, size)) return false;
    for (const Layout::Copy& piece : layout_.copies) {
      uint8_t* target = piece.target + message * piece.stride;
      copy(target, data + piece.source, piece.nbytes);
      if (swap_) swap_items(target, piece.nbytes, piece.item);
    }
    for (const Layout::Time& time : layout_.times) {
      put_time(time.target + message * 8, data + time.source, time.item, time.factor, time.flags);
    }
    for (const Layout::Span& span : layout_.spans) {
      span.target[message] = data - messages_.buffer + span.offset;
      span.target[messages_.count + message] = span.size;
    }
    for (const Layout::Text& text : layout_.texts) {
      text.target[message] = text.contents->code(data + text.offset, text.size, message);
    }
    return true;
  }

  const Layout& layout() const { return layout_; }

  // Go through the steps for a message, and note how it is laid out.
  bool lead(const uint8_t* data, int64_t size, int64_t message) {
    layout_.begin(data);
    Cursor cursor{data, size, 0};
    const bool good = steps(program_.code, program_.code + program_.length, cursor, message, message, false);
    layout_.end(cursor.at);
    return good;
  }

  // message: its number; row: where its numbers go; every: whether these are steps of each element
  bool steps(const int64_t* code, const int64_t* end, Cursor& cursor, int64_t message, int64_t row, bool every) {
    while (code < end) {
      switch (code[0]) {
        case kRun:
          if (!run(code, cursor, message, row)) return false;
          break;
        case kString:
          if (!string(code, cursor, message)) return false;
          break;
        case kSequence:
          if (!sequence(code, cursor, message, row, every)) return false;
          break;
        case kWhole:
          if (!whole(code, cursor, message, row, every)) return false;
          break;
        default:
          if (!repeat(code, cursor, message, row, every)) return false;
      }
    }
    return true;
  }

 private:
  void align(Cursor& cursor, int64_t item) const {
    if (aligned_) cursor.align(item);
  }

  bool length(Cursor& cursor, int64_t& count) {
    align(cursor, 4);
    if (!cursor.has(1, 4)) return false;
    const uint32_t word = load<uint32_t>(cursor.data + cursor.at);
    if constexpr (!kMeasure) layout_.words.push_back({layout_.offset(cursor.data + cursor.at), word});
    count = swap_ ? swapped(word) : word;
    cursor.at += 4;
    return true;
  }

  uint8_t* row_of(int64_t slot, int64_t row) const { return slots_[slot].data + row * slots_[slot].row; }

  void put_numbers(int64_t index, int64_t row, int64_t offset, const uint8_t* source, int64_t nbytes, int64_t item,
                   int64_t message) {
    const Slot& slot = slots_[index];
    uint8_t* target = slot.data + row * slot.row + offset;
    copy(target, source, nbytes);
    if (swap_) swap_items(target, nbytes, item);
    const int64_t stride = slot.each * slot.row;
    layout_.copies.push_back({layout_.offset(source), nbytes, item, target - message * stride, stride});
  }

  void put_time(uint8_t* target, const uint8_t* source, int64_t item, int64_t factor, int64_t flags) const {
    uint64_t time = static_cast<uint64_t>(time_of(source, item, flags & kSigned, swap_, factor));
    if (flags & kAdd) time += load<uint64_t>(target);
    std::memcpy(target, &time, sizeof time);
  }

  void put_span(int64_t slot, int64_t message, const uint8_t* begin, int64_t size) {
    if (!slots_[slot].data) return;  // nobody asks where it lies
    int64_t* spans = reinterpret_cast<int64_t*>(slots_[slot].data);
    spans[message] = begin - messages_.buffer;
    spans[messages_.count + message] = size;
    layout_.spans.push_back({layout_.offset(begin), size, spans});
  }

  void put_text(int64_t slot, int64_t message, const uint8_t* begin, int64_t size) {
    int64_t* codes = reinterpret_cast<int64_t*>(slots_[slot].data);
    Contents& contents = (*contents_)[static_cast<size_t>(slot)];
    codes[message] = contents.code(begin, size, message);
    layout_.texts.push_back({layout_.offset(begin), size, codes, &contents});
  }

  bool run(const int64_t*& code, Cursor& cursor, int64_t message, int64_t row) {
    const RunStep& step = as<RunStep>(code);
    code += RunStep::kHead;
    align(cursor, step.item);
    if (!cursor.has(step.count, step.item)) return false;
    const uint8_t* numbers = cursor.data + cursor.at;
    for (int64_t k = 0; k < step.groups; ++k, code += Group::kHead) {
      if constexpr (kMeasure) continue;
      const Group& group = as<Group>(code);
      const uint8_t* source = numbers + group.first * step.item;
      if (group.factor) {
        uint8_t* target = row_of(group.slot, row);
        put_time(target, source, step.item, group.factor, group.flags);
        layout_.times.push_back(
            {layout_.offset(source), step.item, group.factor, group.flags, target - message * slots_[group.slot].row});
      } else {
        put_numbers(group.slot, row, group.offset, source, (group.stop - group.first) * step.item, step.item, message);
      }
    }
    cursor.at += step.count * step.item;
    return true;
  }

  bool string(const int64_t*& code, Cursor& cursor, int64_t message) {
    const StringStep& step = as<StringStep>(code);
    code += StringStep::kHead;
    int64_t count = 0;
    if (!length(cursor, count) || !cursor.has(count, 1)) return false;
    if constexpr (!kMeasure) {
      // The NUL at the end is no text; some writers leave an empty string without one.
      const int64_t size = nul_ ? std::max<int64_t>(count, 1) - 1 : count;
      if (step.slot >= 0) put_span(step.slot, message, cursor.data + cursor.at, size);
      if (step.codes >= 0) put_text(step.codes, message, cursor.data + cursor.at, size);
    }
    cursor.at += count;
    return true;
  }

  bool sequence(const int64_t*& code, Cursor& cursor, int64_t message, int64_t row, bool every) {
    const SequenceStep& step = as<SequenceStep>(code);
    code += SequenceStep::kHead;
    int64_t count = 0;
    if (!length(cursor, count)) return false;
    if (count) align(cursor, step.item);  // an empty sequence is not padded to its elements' alignment
    if (!cursor.has(count, step.item * step.width)) return false;
    const uint8_t* numbers = cursor.data + cursor.at;
    if constexpr (kMeasure) {
      if (step.columns >= 0) counts_[step.measure] = count;
    } else {
      if (step.spans >= 0) put_span(step.spans, message, numbers, count);
      if (step.columns >= 0) {
        if (count == counts_[step.measure]) {
          put_numbers(step.columns, row, 0, numbers, count * step.item, step.item, message);
        } else if (every) {
          return false;
        } else {
          found_->differs[static_cast<size_t>(step.measure)] = 1;
        }
      }
    }
    cursor.at += count * step.item * step.width;
    return true;
  }

  bool whole(const int64_t*& code, Cursor& cursor, int64_t message, int64_t row, bool every) {
    const WholeStep& step = as<WholeStep>(code);
    const int64_t* inside = code + WholeStep::kHead;
    code = inside + step.length;
    align(cursor, 4);  // of the length; arrays of structs and text only stand here
    if (!cursor.has(0, 1)) return false;
    const uint8_t* begin = cursor.data + cursor.at;
    if (!steps(inside, code, cursor, message, row, every)) return false;
    if constexpr (!kMeasure) {
      const int64_t size = cursor.data + cursor.at - begin;
      if (step.slot >= 0) put_span(step.slot, message, begin, size);
      if (step.codes >= 0) put_text(step.codes, message, begin, size);
    }
    return true;
  }

  bool repeat(const int64_t*& code, Cursor& cursor, int64_t message, int64_t row, bool every) {
    const RepeatStep& step = as<RepeatStep>(code);
    int64_t count = step.count;
    if ((count < 0 && !length(cursor, count)) || !cursor.has(count, step.least)) return false;
    const int64_t* body = code + RepeatStep::kHead;
    const int64_t* picks = body + step.body;
    code = picks;
    for (int64_t k = 0; k < step.picks; ++k) code += PickStep::kHead + as<PickStep>(code).length;
    if (step.measure >= 0) {  // columns for every element: as many in each message, and at least one
      if constexpr (kMeasure) counts_[step.measure] = count;
      if (!count || count != counts_[step.measure]) return false;
    }
    if constexpr (!kMeasure) {
      const int64_t* at = picks;
      for (int64_t k = 0; k < step.picks; ++k, at += PickStep::kHead + as<PickStep>(at).length) {
        if (as<PickStep>(at).kind == kEvery) continue;
        *row_of(as<PickStep>(at).having, message) = 0;
        layout_.lose();  // which element is picked may be a matter of what it holds
      }
    }
    if (step.stride >= 0) {
      if (!strided(step, picks, cursor, count, message, row)) return false;
    } else if (!one_by_one(step, body, picks, cursor, count, message, row, every)) {
      return false;
    }
    if constexpr (!kMeasure) forget(step, picks, message, row);
    return true;
  }

  // Elements of one layout: those wanted are led over as if each were a message of its own.
  bool strided(const RepeatStep& step, const int64_t* picks, Cursor& cursor, int64_t count, int64_t message,
               int64_t row) {
    if (count) align(cursor, step.align);
    // The last element is not padded.
    const int64_t nbytes = count ? count * step.stride - (step.stride - step.size) : 0;
    if (!cursor.has(nbytes, 1)) return false;
    const uint8_t* begin = cursor.data + cursor.at;
    cursor.at += nbytes;
    for (int64_t k = 0; k < step.picks; ++k) {
      const PickStep& pick = as<PickStep>(picks);
      const int64_t* inside = picks + PickStep::kHead;
      picks = inside + pick.length;
      if (kMeasure && pick.kind != kEvery) continue;
      const int64_t first = pick.kind == kPosition ? pick.position : 0;
      const int64_t stop = pick.kind == kPosition ? std::min(count, pick.position + 1) : count;
      for (int64_t i = first; i < stop; ++i) {
        Cursor element{begin + i * step.stride, step.size, 0};
        const int64_t target = pick.kind == kEvery ? row * count + i : row;
        if (!steps(inside, picks, element, message, target, pick.kind == kEvery)) return false;
        if (pick.kind != kEvery && met(pick, message, row)) break;
      }
    }
    return true;
  }

  // Elements of varying length. The steps of a wanted element lead to its end as those of the body do.
  bool one_by_one(const RepeatStep& step, const int64_t* body, const int64_t* picks, Cursor& cursor, int64_t count,
                  int64_t message, int64_t row, bool every) {
    if (count > program_.most) return false;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = cursor.at;
      bool led = false;
      const int64_t* at = picks;
      for (int64_t k = 0; k < step.picks; ++k) {
        const PickStep& pick = as<PickStep>(at);
        const int64_t* inside = at + PickStep::kHead;
        at = inside + pick.length;
        if (kMeasure && pick.kind != kEvery) continue;
        if (pick.kind == kPosition && pick.position != i) continue;
        if constexpr (!kMeasure) {
          if (pick.kind == kMatch && *row_of(pick.having, message)) continue;
        }
        cursor.at = begin;
        const int64_t target = pick.kind == kEvery ? row * count + i : row;
        if (!steps(inside, at, cursor, message, target, pick.kind == kEvery)) return false;
        if (pick.kind != kEvery) met(pick, message, row);
        led = true;
      }
      if (!led && !steps(body, picks, cursor, message, row, every)) return false;
    }
    return true;
  }

  // Whether the element that was just led over is the one meant; noted where it is.
  bool met(const PickStep& pick, int64_t message, int64_t row) const {
    if (pick.kind == kMatch) {
      if (pick.match_item > 0) {
        const uint8_t* found = row_of(pick.match_slot, row) + pick.match_offset;
        // In the host's order: the lowest bytes of a number come first where that is little endian.
        const uint8_t* wanted = reinterpret_cast<const uint8_t*>(&pick.match_begin) +
                                (kHostLittle ? 0 : static_cast<int64_t>(sizeof(int64_t)) - pick.match_item);
        if (std::memcmp(found, wanted, static_cast<size_t>(pick.match_item)) != 0) return false;
      } else {
        const int64_t* spans = reinterpret_cast<const int64_t*>(slots_[pick.match_slot].data);
        const int64_t size = spans[messages_.count + message];
        if (size != pick.match_size) return false;
        if (size && std::memcmp(messages_.buffer + spans[message], program_.texts + pick.match_begin,
                                static_cast<size_t>(size)) != 0) {
          return false;
        }
      }
    }
    *row_of(pick.having, message) = 1;
    return true;
  }

  // Zeros for the elements that this message has not.
  void forget(const RepeatStep& step, const int64_t* picks, int64_t message, int64_t row) {
    for (int64_t k = 0; k < step.picks; ++k, picks += PickStep::kHead + as<PickStep>(picks).length) {
      const PickStep& pick = as<PickStep>(picks);
      if (pick.kind == kEvery || *row_of(pick.having, message)) continue;
      for (int64_t slot = pick.first_slot; slot < pick.last_slot; ++slot) {
        if (slots_[slot].kind == Slot::kSpans) {
          put_span(slot, message, messages_.buffer, 0);
        } else if (slots_[slot].kind != Slot::kNothing && slots_[slot].row) {
          std::memset(row_of(slot, row), 0, static_cast<size_t>(slots_[slot].row));
        }
      }
    }
  }

  const Program& program_;
  const Messages& messages_;
  const bool aligned_, nul_, swap_;
  int64_t* const counts_;
  const Slot* const slots_;
  Found* const found_;
  std::vector<Contents>* const contents_;
  Layout layout_;
};

}  // namespace robocache::decode
