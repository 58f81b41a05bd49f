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
  const float* cos;  // [rows][rotary_dim]
  const float* sin;  // signed, [rows][rotary_dim]
  const Segment* segments;
  int n_segments;
  uint8_t* scratch;  // 64-byte aligned
};

// Bytes of scratch for passes of up to `rows` rows; `rounded` is the most that rounded inputs take at once, where each
// form of them takes `rounded_bytes`.
int64_t scratch_bytes(const Shape& shape, int rows, int64_t rounded);

void run_layer(const Pass& pass, const Layer& layer);

// logits [rows][out] = RMS norm of the hidden states times the head.
void run_head(const Pass& pass, const Linear& head, const float* norm, float* logits);

// out [rows][out] = x [rows][in] times the layer; `exact` does not round the activations.
void run_linear(const Kernels& kernels, Pool& pool, const Linear& linear, const float* x, int rows, bool exact,
                float* out, uint8_t* scratch);

int64_t rounded_bytes(int rows, int units);

}  // namespace fq
