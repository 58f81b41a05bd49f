// What each instruction set provides. One set is chosen when the library is loaded; all give the same integers, and
// floats that differ at most in rounding.
#pragma once

#include <stdint.h>

#include "matrix.h"

namespace fq {

struct Kernels {
  const char* name;
  void (*multiply)(const Matrix& m, const Inputs& x, int row_block, int first, int count, float* sums);
  void (*multiply_exact)(const Matrix& m, const float* row, int block, float* sums);
  void (*dequantize_block)(const Matrix& m, int block, int type, void* out, int64_t stride);
  void (*repack)(int bits, const uint8_t* source, int64_t stride, int words, int blocks, uint8_t* target,
                 int64_t target_stride);
  void (*round_units)(const Matrix& m, const float* row, int r, int first, int last, const Inputs& out);
  void (*rms_norm_row)(const float* x, const float* weight, float* out, int n, float eps);
  void (*swiglu_row)(const float* gate, const float* up, float* out, int n);
  void (*rotate_heads)(float* x, const float* cos, const float* sin, int heads, int head_dim, int rotary_dim,
                       float factor);
  void (*attend)(const Shape& shape, const Segment& segment, int layer, int kv_head, int first, int last,
                 const float* queries, int64_t query_stride, float* out);
  void (*append)(const Shape& shape, const Segment& segment, int layer, int kv_head, int row, const float* key,
                 const float* value);
};

// Each is defined where its instruction set can be compiled.
extern const Kernels kAvx512VbmiKernels, kAvx512Kernels, kAvx2Kernels, kNeonKernels, kPortableKernels;

// Whether this ARM machine has the dot products that kNeonKernels needs.
bool neon_dot_products();

}  // namespace fq
