// The types that values come in and go out as.
#pragma once
#include <cstdint>

namespace robocache {

enum class DType : int32_t { f64, f32, f16, bf16, e4m3, e5m2, i8 };

}  // namespace robocache
