// What is asked of whole columns before they are aligned, each in passes over them that need no memory of their size.
#pragma once
#include <cstdint>

namespace robocache::decode {

struct Order {
  bool rising = true;   // none is below the one before
  int64_t repeats = 0;  // how many are the one before
};

Order order(const int64_t* times, int64_t count);

// Of the steps between rising times, `count` at least 2, whose span is an int64: the two in the middle of their order
// (the same one of an odd number), and the widest.
struct Steps {
  int64_t low = 0;
  int64_t high = 0;
  int64_t widest = 0;
};

Steps steps(const int64_t* times, int64_t count);

// How many steps are wider.
int64_t wider(const int64_t* times, int64_t count, int64_t limit);

// The lowest and the highest number of each column of a table [rows, width]; NaN where one is NaN. rows at least 1.
template <class T> void extremes(const T* table, int64_t rows, int64_t width, T* low, T* high);

// How far each column of a table [rows, width] goes: the sum of the distances from row to row.
template <class T> void ways(const T* table, int64_t rows, int64_t width, double* way);

}  // namespace robocache::decode
