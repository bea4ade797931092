// What the kernels are given: raw pointers, sizes and strides. Filled by bindings/align.cpp, read by cpu/align/ and
// cuda/align/.
#pragma once
#include <cstdint>

#include "robocache/core/dtype.h"

namespace robocache::align {

// The modes' values are the positions in MODES of robocache/ops/modes.py; behind them what a mode becomes by another
// argument: a mean with a period is circular.
enum class Mode : int32_t { linear, cubic, nearest, previous, next, mean, slerp, pose, angle, circular_mean };
constexpr int64_t kModes = int64_t(Mode::angle) + 1;
// Columns that a mode takes; 0: any number.
constexpr int64_t columns_of(Mode mode) { return mode == Mode::slerp ? 4 : mode == Mode::pose ? 7 : 0; }

enum class TimeType : int32_t { i64, f64, f32 };

// A number in the call's time dtype.
union TimeValue {
  int64_t i64;
  double f64;
  float f32;
};

// One stream of a batch. Strides are in elements; the last dimension is contiguous; any stride may be 0.
struct Stream {
  const void* values;      // dense [batch, length, dim], jagged [length, dim]
  const void* times;       // dense [batch, length], jagged [length]
  const int64_t* offsets;  // jagged: [batch + 1]; dense: nullptr
  int64_t value_batch_stride;
  int64_t value_row_stride;
  int64_t time_batch_stride;
  int64_t length;
  int64_t dim;
  int64_t column;     // where its columns start in the fused row
  TimeValue max_gap;  // the largest finite number of the dtype: no limit
  TimeValue shift;    // added to the stream's stamps
  double turn[3];     // of an angle, in the unit of the values: Turn<A>'s numbers; angle and circular_mean only
  DType dtype;
  Mode mode;
};

struct Targets {
  const void* times;       // dense [batch, length], jagged [rows]
  const int64_t* offsets;  // jagged: [batch + 1]; dense: nullptr
  int64_t batch_stride;
  int64_t length;  // targets of one dense batch row
  int64_t batch;
  int64_t rows;  // targets in all
};

struct Output {
  void* data;          // [rows, width]
  bool* valid;         // [rows, streams]
  const float* scale;  // [width] or nullptr; only for the 8-bit types: stored = round(value / scale)
  int64_t width;
  int64_t streams;
  DType dtype;
};

}  // namespace robocache::align
