// Fills one `Kernels` from the templates; included by each kernels_*.cpp after its simd header.
//
// Files that are compiled for one instruction set include nothing of the C++ library that has code: the linker keeps
// one copy of such a function for all files, and it could be the one that this machine cannot run.
#pragma once

#include "activations.h"
#include "any_precision.h"
#include "attention.h"
#include "dequantize.h"
#include "kernels.h"
#include "matmul.h"
#include "plane_weights.h"
#include "repack.h"

#define FQ_KERNELS(name) \
  {name, FQ_ISA::multiply_any, FQ_ISA::multiply_any_exact, FQ_ISA::dequantize_any_block, FQ_ISA::repack, \
   FQ_ISA::round_units, FQ_ISA::rms_norm_row, FQ_ISA::swiglu_row, FQ_ISA::rotate_heads, FQ_ISA::attend, \
   FQ_ISA::append}
