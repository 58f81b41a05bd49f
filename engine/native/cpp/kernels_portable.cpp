// Plain C++, for every machine.
#define FQ_ISA portable
#include "simd_portable.h"
// clang-format off: the simd header comes first
#include "kernels_body.h"

namespace fq {
const Kernels kPortableKernels = FQ_KERNELS("portable");
}
