// Where an Any-Precision matrix lies in an arena: planes in blocks of 4 columns, and scales for the tables.
//
//   planes  uint64 [planes of the level][columns / 4][chunks of 64 inputs][4 columns], bit i of a word for input i of
//           the chunk; columns are padded to blocks of 16, inputs to chunks, with zeros
//   tables  fp16 [columns][2^bits]
//   scales  float [columns]: the largest magnitude of a column's table / kLargestWeight
#pragma once

#include <math.h>

#include "half.h"
#include "matrix.h"

namespace fq {

constexpr int kMostPlanes = 8;
constexpr int kQuad = 4;            // columns whose words lie side by side
constexpr int kChunkInputs = 64;    // inputs of a word
constexpr int kLargestWeight = 32512;  // magnitude of a rounded weight: 127 * 256

static inline int chunks_of(int in) { return (in + kChunkInputs - 1) / kChunkInputs; }

static inline int64_t plane_words(int64_t columns, int in) { return columns * chunks_of(in); }

// Index of a column's word in a plane.
static inline int64_t word_of(int chunks, int64_t column, int64_t chunk) {
  return (column / kQuad * chunks + chunk) * kQuad + column % kQuad;
}

// `count` columns of a plane as on disk, 32-bit words [count][in / 32], from column `first` on, and behind them
// `zeros` columns of zeros.
static inline void place_plane(const uint32_t* source, int in, int64_t first, int count, int zeros, uint64_t* plane) {
  const int words = in / kUnitRows, chunks = chunks_of(in);
  for (int64_t column = first; column < first + count + zeros; ++column) {
    const bool real = column < first + count;
    uint64_t* target = plane + word_of(chunks, column, 0);
    for (int chunk = 0; chunk < chunks; ++chunk, target += kQuad) {
      const uint64_t low = real ? source[2 * chunk] : 0, high = real && 2 * chunk + 1 < words ? source[2 * chunk + 1] : 0;
      *target = low | high << 32;
    }
    if (real) source += words;
  }
}

static inline void table_scales(const uint16_t* tables, int64_t columns, int entries, float* scales) {
  for (int64_t column = 0; column < columns; ++column, tables += entries) {
    float largest = 0.0f;
    for (int i = 0; i < entries; ++i) largest = fmaxf(largest, fabsf(half_to_float(tables[i])));
    scales[column] = largest / kLargestWeight;
  }
}

}  // namespace fq
