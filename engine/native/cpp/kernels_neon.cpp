// NEON with dot products: Apple's M1 and later, ARM's Cortex-A76 and Neoverse N1 and later.
#define FQ_ISA neon
#include "bytes_neon.h"
// clang-format off: the headers of the instruction set come first
#include "kernels_body.h"

#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace fq {

const Kernels kNeonKernels = FQ_KERNELS("neon-dotprod");

// Whether this machine has the dot products that this file is compiled with.
bool neon_dot_products() {
#if defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP, which older headers do not name
  return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#elif defined(__APPLE__)
  return true;
#else
  return false;
#endif
}

}  // namespace fq
