// Plain C++, for every machine.
#define FQ_ISA portable
#include "bytes_portable.h"
// clang-format off: the headers of the instruction set come first
#include "kernels_body.h"

namespace fq {
const Kernels kPortableKernels = FQ_KERNELS("portable");
}
