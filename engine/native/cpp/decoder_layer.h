// One decoder layer, and the head, over rows of hidden states.
#pragma once

#include "kernels.h"
#include "thread_pool.h"

namespace fq {

struct Pass {
  const Kernels& kernels;
  Pool& pool;
  const Shape& shape;
  int rows;
  float* hidden;  // [rows][hidden], changed in place
  const float* cos;  // [rows][head_dim]
  const float* sin;  // signed, [rows][head_dim]
  const Segment* segments;
  int n_segments;
  uint8_t* scratch;  // 64-byte aligned
};

// Bytes of scratch for passes of up to `rows` rows; `units` is the most units of any matrix whose inputs are hidden
// states, `wide_units` of the others (o and down).
int64_t scratch_bytes(const Shape& shape, int rows, int units, int wide_units);

void run_layer(const Pass& pass, const Layer& layer);

// logits [rows][out] = RMS norm of the hidden states times the head.
void run_head(const Pass& pass, const Matrix& head, const float* norm, float* logits);

// out [rows][m.out] = x [rows][m.in] times the matrix; `exact` does not round the activations.
void run_matrix(const Kernels& kernels, Pool& pool, const Matrix& m, const float* x, int rows, bool exact, float* out,
                uint8_t* scratch);

int64_t rounded_bytes(int rows, int units);

}  // namespace fq
