// AVX2 with FMA and F16C: Intel from Haswell on, AMD from Zen on.
#define FQ_ISA avx2
#include "bytes_avx2.h"
// clang-format off: the headers of the instruction set come first
#include "kernels_body.h"

namespace fq {
const Kernels kAvx2Kernels = FQ_KERNELS("avx2");
}
