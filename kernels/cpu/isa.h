// The choice of instruction set at run time, once for every family of CPU kernels.
//
// A family x has x_impl.h, whose functions live in the inline namespace RC_ISA, and three sources that compile it:
//   x.cpp         RC_ISA isa_baseline, and the door that calls the best of the three
//   x_avx2.cpp    between isa_avx2.h and isa_end.h
//   x_avx512.cpp  between isa_avx512.h and isa_end.h
#pragma once

namespace robocache::cpu {

enum class Isa { baseline, avx2, avx512 };

// The best that this machine has.
Isa isa();
const char* isa_name();

}  // namespace robocache::cpu

// For the source of a family's baseline: RC_EACH_ISA(f), in the family's namespace, declares the other two of function
// f; RC_FOR_THIS_MACHINE(family, f) is the one to call.
#if defined(__x86_64__)
#define RC_EACH_ISA(f)         \
  namespace isa_avx2 {         \
  decltype(isa_baseline::f) f; \
  }                            \
  namespace isa_avx512 {       \
  decltype(isa_baseline::f) f; \
  }
#define RC_FOR_THIS_MACHINE(family, f)                                              \
  (::robocache::cpu::isa() == ::robocache::cpu::Isa::avx512 ? family::isa_avx512::f \
   : ::robocache::cpu::isa() == ::robocache::cpu::Isa::avx2 ? family::isa_avx2::f   \
                                                            : family::isa_baseline::f)
#else
#define RC_EACH_ISA(f)
#define RC_FOR_THIS_MACHINE(family, f) family::isa_baseline::f
#endif
