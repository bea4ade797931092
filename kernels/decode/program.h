// A program over packed messages, as robocache/formats/messages/lowered.py writes it: a list of int64, steps one
// behind the other. Lengths of code are in words, `-1` in the place of a slot means that nothing is taken.
//
//   kRun       item, count, groups, then of each group: first, stop, slot, offset, factor, flags
//                `count` numbers of `item` bytes. Numbers [first, stop) of them are put into a row of the slot, from
//                byte `offset` on; or (factor not 0) the one number times `factor` is a time: flag kSigned says how to
//                read it, kAdd that it is added to what is there
//   kString    slot, codes                             a length, then as many bytes
//                codes: a number for each message, the same for the same text
//   kSequence  item, width, spans, columns, measure    a length, then `width` numbers an element
//                spans: where the elements are and how many; columns: the elements, where all messages have
//                counts[measure] of them
//   kWhole     slot, codes, length, code               where what the code leads over begins, and its bytes
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
enum Flag : int64_t { kSigned = 1, kAdd = 2 };

// How messages are packed; see robocache/formats/messages/packing.py.
struct Packing {
  int64_t encapsulation;
  bool aligned;
  bool nul;
};

// Where what steps take is put: numbers, rows of `row` bytes, `each` of them for a message; times, int64; spans, the
// starts of all messages and behind them the sizes, int64; codes, int64; or truth values.
struct Slot {
  enum Kind { kNothing, kNumbers, kTimes, kSpans, kCodes, kHaving };
  uint8_t* data;
  int64_t nbytes;
  int64_t row;
  Kind kind = kNothing;
  int64_t each = 1;
};

struct Program {
  const int64_t* code;
  int64_t length;
  const uint8_t* texts;
  int64_t text_length;
  int64_t most;  // elements of varying length that are gone through one by one
  Packing packing;
};

// Whether the code is well formed and every slot as large as `messages` rows of it need. Numbers' slots come with their
// rows' bytes; the rest is filled in.
bool check(const Program& program, int64_t messages, const std::vector<int64_t>& counts, std::vector<Slot>& slots);

// Lead over the first message alone and note how many elements it has of what is measured. False: it ends early.
bool measure(const Program& program, const Messages& messages, std::vector<int64_t>& counts);

constexpr int64_t kRefused = -1;

struct Found {
  int64_t order = kRefused;                  // second byte of the encapsulation; 1 where there is none
  std::vector<uint8_t> differs;              // of each measure: some message has another count, so no columns
  std::vector<std::vector<int64_t>> firsts;  // of each slot of codes: the first message with each
};

// Run a checked program over all messages. Where a message is not as the program has it, the order is kRefused and
// nothing else means anything.
Found run(const Program& program, const Messages& messages, const std::vector<int64_t>& counts,
          const std::vector<Slot>& slots);

// How a message is laid out, each in so many numbers: bytes that decide how the rest is read (where, how many), numbers
// (where, how many bytes, bytes of each, slot, where in it), times (where, bytes, factor, flags, slot), and spans, which
// are compared where they are texts (where, size, slot).
struct Laid {
  int64_t order = kRefused, nbytes = 0;
  std::vector<int64_t> same, copies, times, spans;
};

// Run a checked program over the one message that there is, and say how it is laid out: others that have the same bytes
// in these places are laid out alike. False where that cannot be said, or the message is not as the program has it.
bool lay_out(const Program& program, const Messages& messages, const std::vector<int64_t>& counts,
             const std::vector<Slot>& slots, Laid& laid);

}  // namespace robocache::decode
