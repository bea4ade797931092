// The fixed part of each step of a program, as program.h has its words.
#pragma once
#include "decode/program.h"

namespace robocache::decode {

struct RunStep {
  static constexpr int64_t kHead = 4;
  int64_t op, item, count, groups;
};
struct Group {
  static constexpr int64_t kHead = 6;
  int64_t first, stop, slot, offset, factor, flags;
};
struct StringStep {
  static constexpr int64_t kHead = 3;
  int64_t op, slot, codes;
};
struct SequenceStep {
  static constexpr int64_t kHead = 6;
  int64_t op, item, width, spans, columns, measure;
};
struct WholeStep {
  static constexpr int64_t kHead = 4;
  int64_t op, slot, codes, length;
};
struct RepeatStep {
  static constexpr int64_t kHead = 9;
  int64_t op, count, least, stride, size, align, measure, body, picks;
};
struct PickStep {
  static constexpr int64_t kHead = 11;
  int64_t kind, position, having, first_slot, last_slot, match_slot, match_offset, match_item, match_begin, match_size,
      length;
};

template <class Step> const Step& as(const int64_t* code) {
  static_assert(sizeof(Step) == Step::kHead * sizeof(int64_t));
  return *reinterpret_cast<const Step*>(code);
}

inline bool is_item(int64_t item) { return item == 1 || item == 2 || item == 4 || item == 8; }

}  // namespace robocache::decode
