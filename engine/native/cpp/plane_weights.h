// The weights of Any-Precision matrices themselves: tiles for dense products and for checking, and products without
// rounding weights or activations.
#pragma once

#include "any_precision.h"
#include "dequantize.h"

namespace fq::FQ_ISA {

// fp16 weights of a column for the inputs of a chunk, padding included.
static void weights_of_chunk(const Planes& planes, int64_t column, int chunk, uint16_t weights[kChunkInputs]) {
  const int bits = planes.top->bits;
  const uint16_t* table = planes.top->tables + (column << bits);
  uint64_t words[kMostPlanes];
  for (int p = 0; p < bits; ++p) words[p] = planes.plane[p][word_of(planes.chunks, column, chunk)];
  for (int i = 0; i < kChunkInputs; ++i) {
    unsigned code = 0;
    for (int p = 0; p < bits; ++p) code = code << 1 | static_cast<unsigned>(words[p] >> i & 1u);
    weights[i] = table[code];
  }
}

// As `dequantize_block`, with all planes of the matrix.
static void dequantize_planes(const Matrix& m, int block, int type, void* out, int64_t stride) {
  const Planes planes(m);
  alignas(64) uint16_t weights[kLanes][kChunkInputs];
  for (int chunk = 0; chunk < planes.chunks; ++chunk) {
    for (int lane = 0; lane < kLanes; ++lane)
      weights_of_chunk(planes, static_cast<int64_t>(block) * kLanes + lane, chunk, weights[lane]);
    for (int i = 0; i < kChunkInputs && chunk * kChunkInputs + i < m.in; ++i) {
      alignas(64) uint16_t halves[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) halves[lane] = weights[lane][i];
      store_tile(out, static_cast<int64_t>(chunk * kChunkInputs + i) * stride, halves, type);
    }
  }
}

// As `multiply_exact`.
static void multiply_planes_exact(const Matrix& m, const float* row, int block, float* sums) {
  const Planes planes(m);
  for (int lane = 0; lane < kLanes; ++lane) {
    Floats acc = zero();
    for (int chunk = 0; chunk < planes.chunks; ++chunk) {
      alignas(64) uint16_t weights[kChunkInputs];
      weights_of_chunk(planes, static_cast<int64_t>(block) * kLanes + lane, chunk, weights);
      const int left = m.in - chunk * kChunkInputs;
      for (int i = 0; i < kChunkInputs && i < left; i += kLanes)
        acc = fma(load_half(weights + i), load(row + chunk * kChunkInputs + i), acc);
    }
    sums[lane] = sum_of(acc);
  }
  add_bias(m, block, 1, sums);
}

// --- matrices of either method

static void multiply_any(const Matrix& m, const Inputs& x, int row_block, int first, int count, float* sums) {
  return m.bits ? multiply_planes(m, x, row_block, first, count, sums) : multiply(m, x, row_block, first, count, sums);
}

static void multiply_any_exact(const Matrix& m, const float* row, int block, float* sums) {
  return m.bits ? multiply_planes_exact(m, row, block, sums) : multiply_exact(m, row, block, sums);
}

static void dequantize_any_block(const Matrix& m, int block, int type, void* out, int64_t stride) {
  return m.bits ? dequantize_planes(m, block, type, out, stride) : dequantize_block(m, block, type, out, stride);
}

}  // namespace fq::FQ_ISA
