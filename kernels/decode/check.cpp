// What is known of a program before it runs: that its words are steps, and its arrays as large as the steps need them.
#include "decode/steps.h"

namespace robocache::decode {
namespace {

constexpr int64_t kMostCount = int64_t{1} << 32, kMostElement = int64_t{1} << 31;  // their product is an int64
constexpr int kDeepest = 200;  // steps within steps; a definition is at most 64 types deep

class Check {
 public:
  Check(const Program& program, int64_t messages, const std::vector<int64_t>& counts, std::vector<Slot>& slots)
      : program_(program), messages_(messages), counts_(counts), slots_(slots) {}

  // `every`: whether these are steps of each element, of which there are `rows` in all messages together.
  bool steps(const int64_t* code, const int64_t* end, int64_t rows, bool every, int depth) {
    if (depth > kDeepest) return false;
    while (code < end) {
      const int64_t left = end - code;
      int64_t used = 0;
      switch (code[0]) {
        case kRun: used = left >= RunStep::kHead ? run(as<RunStep>(code), left, rows) : 0; break;
        case kString: used = left >= StringStep::kHead ? string(as<StringStep>(code), every) : 0; break;
        case kSequence: used = left >= SequenceStep::kHead ? sequence(as<SequenceStep>(code), rows, every) : 0; break;
        case kWhole: used = left >= WholeStep::kHead ? whole(code, left, rows, every, depth) : 0; break;
        case kRepeat: used = left >= RepeatStep::kHead ? repeat(code, left, rows, every, depth) : 0; break;
        default: return false;
      }
      if (!used) return false;
      code += used;
    }
    return true;
  }

 private:
  // The slot, where it is none of another kind and holds `rows` rows.
  Slot* slot(int64_t index, Slot::Kind kind, int64_t row, int64_t rows) {
    if (index < 0 || index >= static_cast<int64_t>(slots_.size())) return nullptr;
    Slot& slot = slots_[static_cast<size_t>(index)];
    int64_t need = 0;
    if (__builtin_mul_overflow(row, rows, &need) || need > slot.nbytes) return nullptr;
    const int64_t each = messages_ ? rows / messages_ : 1;
    if (slot.kind != Slot::kNothing && (slot.kind != kind || slot.row != row || slot.each != each)) return nullptr;
    slot.kind = kind;
    slot.row = row;
    slot.each = each;
    return &slot;
  }

  // Numbers of `nbytes` from `offset` on in each row.
  bool numbers(int64_t index, int64_t offset, int64_t nbytes, int64_t rows) {
    if (index < 0 || index >= static_cast<int64_t>(slots_.size())) return false;
    const int64_t row = slots_[static_cast<size_t>(index)].row;
    return row >= 0 && offset >= 0 && nbytes <= row && offset <= row - nbytes &&
           slot(index, Slot::kNumbers, row, rows);
  }

  bool spans(int64_t index, bool every) {
    return index < 0 || (!every && slot(index, Slot::kSpans, 2 * sizeof(int64_t), messages_));
  }

  bool codes(int64_t index, bool every) {
    return index < 0 || (!every && slot(index, Slot::kCodes, sizeof(int64_t), messages_));
  }

  int64_t string(const StringStep& step, bool every) {
    return spans(step.slot, every) && codes(step.codes, every) ? StringStep::kHead : 0;
  }

  bool measured(int64_t index) const {
    return index >= 0 && index < static_cast<int64_t>(counts_.size()) && counts_[static_cast<size_t>(index)] >= 0 &&
           counts_[static_cast<size_t>(index)] < kMostCount;
  }

  int64_t run(const RunStep& step, int64_t left, int64_t rows) {
    const bool good = is_item(step.item) && step.count >= 0 && step.count <= kMostElement / step.item &&
                      step.groups >= 0 && step.groups <= (left - RunStep::kHead) / Group::kHead;
    if (!good) return 0;
    const int64_t* code = &step.op + RunStep::kHead;
    for (int64_t k = 0; k < step.groups; ++k, code += Group::kHead) {
      const Group& group = as<Group>(code);
      if (group.first < 0 || group.first > group.stop || group.stop > step.count) return 0;
      if (group.factor) {
        if (group.stop - group.first != 1 || rows != messages_) return 0;
        if (!slot(group.slot, Slot::kTimes, sizeof(int64_t), rows)) return 0;
      } else if (!numbers(group.slot, group.offset, (group.stop - group.first) * step.item, rows)) {
        return 0;
      }
    }
    return RunStep::kHead + step.groups * Group::kHead;
  }

  int64_t sequence(const SequenceStep& step, int64_t rows, bool every) {
    if (!is_item(step.item) || step.width < 0 || step.width > kMostElement / step.item) return 0;
    if (!spans(step.spans, every)) return 0;
    if (step.columns >= 0) {
      if (step.width != 1 || !measured(step.measure)) return 0;
      const int64_t row = counts_[static_cast<size_t>(step.measure)] * step.item;
      if (!numbers(step.columns, 0, row, rows)) return 0;
    }
    return SequenceStep::kHead;
  }

  int64_t whole(const int64_t* code, int64_t left, int64_t rows, bool every, int depth) {
    const WholeStep& step = as<WholeStep>(code);
    if (step.length < 0 || step.length > left - WholeStep::kHead ||
        !spans(step.slot, every) || !codes(step.codes, every)) {
      return 0;
    }
    const int64_t* inside = code + WholeStep::kHead;
    return steps(inside, inside + step.length, rows, every, depth + 1) ? WholeStep::kHead + step.length : 0;
  }

  int64_t repeat(const int64_t* code, int64_t left, int64_t rows, bool every, int depth) {
    const RepeatStep& step = as<RepeatStep>(code);
    const int64_t* const end = code + left;
    const bool good = step.count >= -1 && step.count < kMostCount && step.least >= 0 && step.least <= kMostElement &&
                      step.body >= 0 && step.body <= left - RepeatStep::kHead && step.picks >= 0 &&
                      (step.stride == -1 || (step.stride >= 0 && step.stride <= kMostElement && step.size >= 0 &&
                                             step.size <= step.stride && is_item(step.align)));
    if (!good) return 0;
    const int64_t* at = code + RepeatStep::kHead;
    if (!steps(at, at + step.body, rows, every, depth + 1)) return 0;  // a body takes nothing
    at += step.body;
    for (int64_t k = 0; k < step.picks; ++k) {
      if (end - at < PickStep::kHead) return 0;
      const PickStep& pick = as<PickStep>(at);
      at += PickStep::kHead;
      if (pick.length < 0 || pick.length > end - at || pick.kind < kPosition || pick.kind > kMatch) return 0;
      if (pick.kind == kEvery) {
        int64_t inner = 0;
        if (!measured(step.measure)) return 0;
        if (__builtin_mul_overflow(rows, counts_[static_cast<size_t>(step.measure)], &inner)) return 0;
        if (!steps(at, at + pick.length, inner, true, depth + 1)) return 0;
      } else {
        if (every || !slot(pick.having, Slot::kHaving, 1, messages_)) return 0;
        if (!steps(at, at + pick.length, rows, false, depth + 1) || !range(pick)) return 0;
        if (pick.kind == kMatch && !match(pick)) return 0;
      }
      at += pick.length;
    }
    return at - code;
  }

  bool range(const PickStep& pick) const {
    return pick.first_slot >= 0 && pick.first_slot <= pick.last_slot &&
           pick.last_slot <= static_cast<int64_t>(slots_.size());
  }

  bool match(const PickStep& pick) const {
    if (pick.match_slot < pick.first_slot || pick.match_slot >= pick.last_slot) return false;
    const Slot& slot = slots_[static_cast<size_t>(pick.match_slot)];
    if (pick.match_item > 0) {
      return slot.kind == Slot::kNumbers && is_item(pick.match_item) && pick.match_offset >= 0 &&
             pick.match_offset <= slot.row - pick.match_item;
    }
    return slot.kind == Slot::kSpans && pick.match_begin >= 0 && pick.match_size >= 0 &&
           pick.match_size <= program_.text_length && pick.match_begin <= program_.text_length - pick.match_size;
  }

  const Program& program_;
  const int64_t messages_;
  const std::vector<int64_t>& counts_;
  std::vector<Slot>& slots_;
};

}  // namespace

bool check(const Program& program, int64_t messages, const std::vector<int64_t>& counts, std::vector<Slot>& slots) {
  const int64_t lead = program.packing.encapsulation;
  return (lead == 0 || lead >= 2) &&
         Check(program, messages, counts, slots).steps(program.code, program.code + program.length, messages, false, 0);
}

}  // namespace robocache::decode
