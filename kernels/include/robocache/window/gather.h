// Windows of rows: around each of some rows of a dataset the rows that a training loop wants of each column.
#pragma once
#include <cstdint>

#include "robocache/core/macros.h"

namespace robocache::window {

// As many columns as a launch takes: together they are a kernel's argument.
constexpr int kMostColumns = 32;

// A column of all rows, and what becomes of it.
struct Column {
  const char* from;      // [rows, units]; null: what comes out is whether a step leads out of the episode
  char* to;              // [windows, count, units]
  const int32_t* steps;  // [count], how many rows away from the window's own
  int32_t count;
  int32_t units;  // of a row
  int32_t unit;   // bytes: 1, 2, 4, 8 or 16
  bool run;       // the steps follow each other
  bool filled;    // outside of the episode stands `fill`; else the nearest row of it
  alignas(16) char fill[16];
};

struct Rows {
  const int64_t* own;     // [windows], the row that a window is around
  const int32_t* bounds;  // [rows, 2], the first and the last row of each row's episode
  int64_t windows, rows;
};

inline namespace RC_ISA {

struct Around {
  int64_t own, first, last;
};
// Whatever the numbers hold, no row is read that is not there.
RC_INLINE int64_t within(int64_t row, int64_t first, int64_t last) {
  return row < first ? first : row > last ? last : row;
}
RC_INLINE Around around(const Rows& rows, int64_t window) {
  const int64_t own = within(rows.own[window], 0, rows.rows - 1);
  return {own, within(rows.bounds[2 * own], 0, own), within(rows.bounds[2 * own + 1], own, rows.rows - 1)};
}

}  // namespace RC_ISA
}  // namespace robocache::window
