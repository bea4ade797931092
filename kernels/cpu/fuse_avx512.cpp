// The CPU kernel for x86-64 with AVX512. Standard headers come before the target pragma: their inline functions are
// shared with code that must run on any machine.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define RC_ISA isa_avx512
#include "fuse_impl.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
