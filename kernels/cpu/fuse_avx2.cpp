// The CPU kernel for x86-64 with AVX2. Standard headers come before the target pragma: their inline functions are
// shared with code that must run on any machine.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define RC_ISA isa_avx2
#include "fuse_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
