// The door to windows of rows on the CPU: of one column the windows [begin, end).
#pragma once
#include <cstdint>

namespace robocache::window {
struct Column;
struct Rows;
}  // namespace robocache::window

namespace robocache::cpu {

void gather_windows(const window::Column& column, const window::Rows& rows, int64_t begin, int64_t end);

}  // namespace robocache::cpu
