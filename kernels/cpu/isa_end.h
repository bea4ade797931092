// Ends what isa_avx2.h or isa_avx512.h began.
#if defined(__clang__)
#pragma clang attribute pop
#endif
