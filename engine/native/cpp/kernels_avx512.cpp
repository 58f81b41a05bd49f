// AVX-512 with VNNI: Intel from Cascade Lake on, AMD from Zen 4 on.
#define FQ_ISA avx512
#include "lookup_avx512_bw.h"
// clang-format off: the headers of the instruction set come first
#include "kernels_body.h"

namespace fq {
const Kernels kAvx512Kernels = FQ_KERNELS("avx512-vnni");
}
