// What a function is that host and device share, and the namespace that keeps instruction sets apart.
//
// Every rounding is explicit: products and sums that may be fused are written as fma(), the rest must not be fused
// (nvcc -fmad=false, gcc -ffp-contract=off), so both sides give the same bits. No fast-math and no library sin or atan
// (their bits differ between libm and CUDA): the polynomials of geometry/ serve both.
#pragma once

#ifdef __CUDACC__
#define RC_INLINE __host__ __device__ __forceinline__
#define RC_ISA device_code
#define RC_ROLLED _Pragma("unroll 1")  // a loop of rare code, which must not cost the common code registers
#define RC_UNROLL _Pragma("unroll")
#else
#define RC_ROLLED
#define RC_INLINE inline __attribute__((always_inline))
#define RC_UNROLL  // loops of constant length are unrolled anyway
#ifndef RC_ISA
#error "define RC_ISA: each instruction set gets its own copy of these functions"
#endif
#endif
