// AVX-512 with VNNI, VBMI and GFNI: Intel from Ice Lake on, AMD from Zen 4 on.
#define FQ_ISA avx512vbmi
#include "lookup_avx512_vbmi.h"
// clang-format off: the headers of the instruction set come first
#include "kernels_body.h"

namespace fq {
const Kernels kAvx512VbmiKernels = FQ_KERNELS("avx512-vbmi");
}
