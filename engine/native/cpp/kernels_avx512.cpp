// AVX-512 with VNNI: Intel from Ice Lake and Cascade Lake on, AMD from Zen 4 on.
#define FQ_ISA avx512
#include "bytes_avx512.h"
// clang-format off: the headers of the instruction set come first
#include "kernels_body.h"

namespace fq {
const Kernels kAvx512Kernels = FQ_KERNELS("avx512-vnni");
}
