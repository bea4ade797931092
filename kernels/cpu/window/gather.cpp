// Windows of rows on the CPU: bytes from here to there, a window whose rows follow each other at once.
#include "gather.h"

#include <cstring>

#define RC_ISA isa_baseline
#include "robocache/window/gather.h"

namespace robocache {
namespace {

void fill_row(const window::Column& c, char* to, int64_t bytes) {
  for (int64_t b = 0; b < bytes; b += c.unit) std::memcpy(to + b, c.fill, size_t(c.unit));
}

}  // namespace

void cpu::gather_windows(const window::Column& c, const window::Rows& rows, int64_t begin, int64_t end) {
  const int64_t bytes = int64_t(c.units) * c.unit;
  for (int64_t w = begin; w < end; ++w) {
    const window::Around a = window::around(rows, w);
    char* to = c.to + w * c.count * bytes;
    const int64_t from = a.own + c.steps[0];
    if (c.run && c.from && from >= a.first && from + c.count - 1 <= a.last) {
      std::memcpy(to, c.from + from * bytes, size_t(c.count * bytes));
      continue;
    }
    for (int k = 0; k < c.count; ++k, to += bytes) {
      const int64_t wanted = a.own + c.steps[k], at = window::within(wanted, a.first, a.last);
      if (!c.from) {
        *to = char(at != wanted);
      } else if (c.filled && at != wanted) {
        fill_row(c, to, bytes);
      } else {
        std::memcpy(to, c.from + at * bytes, size_t(bytes));
      }
    }
  }
}

}  // namespace robocache
