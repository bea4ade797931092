#if defined(__x86_64__)
#include "cpu/isa_avx512.h"
#include "action_impl.h"
#include "cpu/isa_end.h"
#endif
