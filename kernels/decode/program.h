// A program over packed messages, as robocache/formats/messages/lowered.py writes it: a list of int64, steps one
// behind the other. Lengths of code are in words, `-1` in the place of a slot means that nothing is taken.
//
//   kRun       item, count, groups, then of each group: first, stop, slot
//                `count` numbers of `item` bytes; numbers [first, stop) of them are a row of the slot
//   kString    slot                                    a length, then as many bytes
//   kSequence  item, width, spans, columns, measure    a length, then `width` numbers an element
//                spans: where the elements are and how many; columns: the elements, where all messages have
//                counts[measure] of them
//   kWhole     slot, length, code                      where what the code leads over begins, and its bytes
//   kRepeat    count, least, stride, size, align, measure, body length, picks, body, then the picks
//                `count` elements (-1: a length comes first) of at least `least` bytes; stride -1: of varying length.
//                measure: of a program that takes every element, which has counts[measure] in every message
//     a pick   kind, position, having, first slot, last slot, match slot, match offset, match item, match begin,
//              match size, length, code
//                kEvery: a row for each element. kPosition: the element at `position`. kMatch: the first of which what
//                the code puts into the match slot is texts[begin, begin + size), or (item > 0) at `offset` the number
//                `begin`. having: whether a message has it; the slots of its code are zero where it has not.
#pragma once
#include <cstdint>
#include <vector>

#include "decode/bytes.h"

namespace robocache::decode {

enum Op : int64_t { kRun = 1, kString, kSequence, kWhole, kRepeat };
enum Pick : int64_t { kPosition = 0, kEvery, kMatch };

// How messages are packed; see robocache/formats/messages/packing.py.
struct Packing {
  int64_t encapsulation;
  bool aligned;
  bool nul;
};

// Where what a step takes is put: numbers, rows of `row` bytes; spans, the starts of all messages and behind them the
// sizes, int64; or a truth value a message.
struct Slot {
  enum Kind { kNothing, kNumbers, kSpans, kHaving };
  uint8_t* data;
  int64_t nbytes;
  Kind kind = kNothing;
  int64_t row = 0;
};

struct Program {
  const int64_t* code;
  int64_t length;
  const uint8_t* texts;
  int64_t text_length;
  int64_t most;  // elements of varying length that are gone through one by one
  Packing packing;
};

// Whether the code is well formed and every slot as large as `messages` rows of it need. Fills in the slots' kinds.
bool check(const Program& program, int64_t messages, const std::vector<int64_t>& counts, std::vector<Slot>& slots);

// Lead over the first message alone and note how many elements it has of what is measured. False: it ends early.
bool measure(const Program& program, const Messages& messages, std::vector<int64_t>& counts);

constexpr int64_t kRefused = -1;

// Run a checked program over all messages. Returns the second byte of their encapsulation (1 where there is none), or
// kRefused where a message is not as the program has it; the slots mean nothing then. `differs`: of each measure,
// whether some message has another number of elements, so that there are no columns.
int64_t run(const Program& program, const Messages& messages, const std::vector<int64_t>& counts,
            const std::vector<Slot>& slots, std::vector<uint8_t>& differs);

}  // namespace robocache::decode
