#include "decode/columns.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace robocache::decode {
namespace {

constexpr int64_t kFew = 1 << 14;  // steps that are copied and put in order faster than they are counted
constexpr int kDigit = 16;         // bits of a step that are counted by at once
constexpr int64_t kAbreast = 512;  // numbers of a table that are compared side by side

// The step of a rank (from 0) among `count - 1` steps between `least` and `most`: counted by digits, the highest first.
int64_t ranked(const int64_t* times, int64_t count, int64_t rank, int64_t least, int64_t most) {
  std::vector<int64_t> seen(size_t{1} << kDigit);
  int bits = std::bit_width(static_cast<uint64_t>(most - least));
  int64_t base = least;
  while (bits > 0) {
    const int shift = std::max(0, bits - kDigit);
    const uint64_t room = bits < 64 ? uint64_t{1} << bits : 0;  // steps within it share the digits before
    std::fill(seen.begin(), seen.end(), 0);
    for (int64_t i = 1; i < count; ++i) {
      const uint64_t over = static_cast<uint64_t>(times[i] - times[i - 1]) - static_cast<uint64_t>(base);
      if (over < room) ++seen[over >> shift];
    }
    size_t digit = 0;
    while (rank >= seen[digit]) rank -= seen[digit++];
    base += static_cast<int64_t>(digit << shift);
    bits = shift;
  }
  return base;
}

}  // namespace

Order order(const int64_t* times, int64_t count) {
  int64_t back = 0, repeats = 0;
  for (int64_t i = 1; i < count; ++i) {
    back += times[i] < times[i - 1];
    repeats += times[i] == times[i - 1];
  }
  return {back == 0, repeats};
}

Steps steps(const int64_t* times, int64_t count) {
  const int64_t all = count - 1, below = (all - 1) / 2, above = all / 2;
  if (all <= kFew) {
    std::vector<int64_t> found(static_cast<size_t>(all));
    for (int64_t i = 0; i < all; ++i) found[static_cast<size_t>(i)] = times[i + 1] - times[i];
    const int64_t widest = *std::max_element(found.begin(), found.end());
    const auto middle = found.begin() + above;
    std::nth_element(found.begin(), middle, found.end());
    const int64_t low = below == above ? *middle : *std::max_element(found.begin(), middle);
    return {low, *middle, widest};
  }
  int64_t least = std::numeric_limits<int64_t>::max(), most = 0;
  for (int64_t i = 1; i < count; ++i) {
    const int64_t step = times[i] - times[i - 1];
    least = std::min(least, step);
    most = std::max(most, step);
  }
  const int64_t low = ranked(times, count, below, least, most);
  if (below == above) return {low, low, most};
  int64_t upto = 0, next = most;  // how many are no wider than that, and the first that is
  for (int64_t i = 1; i < count; ++i) {
    const int64_t step = times[i] - times[i - 1];
    upto += step <= low;
    next = std::min(next, step > low ? step : most);
  }
  return {low, upto > above ? low : next, most};
}

int64_t wider(const int64_t* times, int64_t count, int64_t limit) {
  int64_t found = 0;
  for (int64_t i = 1; i < count; ++i) found += times[i] - times[i - 1] > limit;
  return found;
}

template <class T> void extremes(const T* table, int64_t rows, int64_t width, T* low, T* high) {
  // As many whole rows as fit lie abreast, so that the inner loop is long whatever the width is.
  const int64_t fold = std::max<int64_t>(1, kAbreast / std::max<int64_t>(1, width)), lanes = fold * width;
  const int64_t even = rows / fold * fold;
  std::vector<T> least(static_cast<size_t>(lanes), std::numeric_limits<T>::infinity());
  std::vector<T> most(static_cast<size_t>(lanes), -std::numeric_limits<T>::infinity());
  std::vector<uint8_t> none(static_cast<size_t>(width), 0);
  int64_t nans = 0;
  const auto compare = [&](const T* row, int64_t numbers) {
    T* const a = least.data();
    T* const b = most.data();
    for (int64_t i = 0; i < numbers; ++i) {
      a[i] = row[i] < a[i] ? row[i] : a[i];
      b[i] = row[i] > b[i] ? row[i] : b[i];
    }
    for (int64_t i = 0; i < numbers; ++i) nans += row[i] != row[i];
  };
  for (int64_t row = 0; row < even; row += fold) compare(table + row * width, lanes);
  compare(table + even * width, (rows - even) * width);
  if (nans) {
    for (int64_t i = 0; i < rows * width; ++i) {
      if (table[i] != table[i]) none[static_cast<size_t>(i % width)] = 1;
    }
  }
  for (int64_t column = 0; column < width; ++column) {
    low[column] = std::numeric_limits<T>::infinity();
    high[column] = -std::numeric_limits<T>::infinity();
    for (int64_t lane = column; lane < lanes; lane += width) {
      low[column] = std::min(low[column], least[static_cast<size_t>(lane)]);
      high[column] = std::max(high[column], most[static_cast<size_t>(lane)]);
    }
    if (none[static_cast<size_t>(column)]) low[column] = high[column] = std::numeric_limits<T>::quiet_NaN();
  }
}

template void extremes(const float*, int64_t, int64_t, float*, float*);
template void extremes(const double*, int64_t, int64_t, double*, double*);

template <class T> void ways(const T* table, int64_t rows, int64_t width, double* way) {
  const int64_t fold = std::max<int64_t>(1, kAbreast / std::max<int64_t>(1, width)), lanes = fold * width;
  std::vector<double> sums(static_cast<size_t>(lanes), 0.0);
  double* const sum = sums.data();
  const int64_t count = (rows - 1) * width;
  for (int64_t at = 0; at < count; at += lanes) {
    const T* const from = table + at;
    const T* const to = from + width;
    const int64_t numbers = std::min(lanes, count - at);
    for (int64_t i = 0; i < numbers; ++i) sum[i] += std::abs(static_cast<double>(to[i]) - static_cast<double>(from[i]));
  }
  for (int64_t column = 0; column < width; ++column) {
    way[column] = 0.0;
    for (int64_t lane = column; lane < lanes; lane += width) way[column] += sum[lane];
  }
}

template void ways(const float*, int64_t, int64_t, double*);
template void ways(const double*, int64_t, int64_t, double*);

}  // namespace robocache::decode
