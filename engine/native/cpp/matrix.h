// What Python and the kernels share: plain structs, mirrored field by field in engine/native/structs.py.
#pragma once

#include <stdint.h>

namespace fq {

constexpr int kLanes = 16;       // columns that one vector holds
constexpr int kUnitRows = 32;    // inputs that share one scale when activations are rounded to int8
constexpr int kRowBlock = 8;     // rows that go through a matrix together
constexpr int kPageTokens = 64;  // tokens of a KV page

// Consecutive groups of one width and length, few enough that what a row has for them stays in the innermost cache.
// Units are runs of 32 rows counted from a group's start; the last unit of
// a group may be shorter. Words are 32-bit words of one column.
struct Run {
  int32_t bits;
  int32_t rows_per_group;
  int32_t groups;
  int32_t first_group;
  int32_t first_unit;
  int32_t first_word;
};

// A quantized matrix [in, out], a whole layer or a slice of its columns, in its arena layout
// (engine/exl2/blocked_layout.py). Residuals to be added to it are a matrix of the same size with groups of the same
// rows: they take the same rounded inputs, and have neither a permutation nor a bias.
//
// An Any-Precision matrix (planes.h) has planes for codes, a scale for each column's table, and no permutation; its
// units are 32 inputs each. `residual` is what the next wider level has: further planes, and tables for all of them.
struct Matrix {
  const uint8_t* codes;    // per run [blocks][words of the run][16] 32-bit words: planes of 4, 2 and 1 bits (unpack.h)
  const uint8_t* scales;   // [blocks][groups][8]: 16 four-bit indices into the group's table
  const uint16_t* tables;  // fp16 [groups][16]: the scales that a group can have
  const int32_t* perm;     // [in]: packed row r is input perm[r]
  const uint16_t* bias;    // fp16 [out] or null
  const Run* runs;
  const Matrix* residual;  // or null
  int32_t n_runs;
  int32_t in;
  int32_t out;
  int32_t blocks;  // of 16 columns, padding included
  int32_t words;   // per column
  int32_t groups;
  int32_t units;
  int32_t bits;  // 0, but of an Any-Precision matrix those of a code
};

static inline int words_of(const Run& run) { return run.groups * (run.rows_per_group * run.bits / 32); }

// Where the codes of a run begin for the columns of a block.
static inline const uint8_t* codes_of(const Matrix& m, const Run& run, int block) {
  const int64_t words = static_cast<int64_t>(run.first_word) * m.blocks + static_cast<int64_t>(block) * words_of(run);
  return m.codes + words * 4 * kLanes;
}

// Activations of several rows, rounded to int8 unit by unit. Rows come in blocks of up to kRowBlock; a block with n
// rows is laid out [units][n], so that a kernel reads it from front to back.
struct Inputs {
  int8_t* codes;   // [rows * units * 32]
  float* scales;   // [rows * units]
  int32_t* sums;   // [rows * units]: minus the sum of the unit's codes
  int32_t units;
  int32_t rows;
};

static inline int rows_of_block(const Inputs& x, int block) {
  const int left = x.rows - block * kRowBlock;
  return left < kRowBlock ? left : kRowBlock;
}

// One sequence's new rows in a pass.
struct Segment {
  int32_t first_row;
  int32_t rows;
  int32_t start;          // tokens that the sequence had before
  int32_t reserved;
  const uint64_t* pages;  // addresses of its pages
};

// Sizes of a decoder.
struct Shape {
  int32_t hidden;
  int32_t intermediate;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t kv_is_half;  // pages hold fp16, else fp32
  float norm_eps;
  int32_t rotary_dim;  // features of a head that are turned by the position, the first ones
};

// Columns of a linear layer that lie in one piece: all of them, or a slice.
struct Part {
  Matrix matrix;
  int32_t first_block;  // of the layer's blocks of 16 columns
  int32_t inputs;       // which rounded form of the inputs it takes, among those that parts with the same inputs need:
                        // parts with the same permutation and units share one; numbered by first appearance
};

// A linear layer: parts side by side, in the order of their columns.
struct Linear {
  const Part* parts;
  int32_t n_parts;
  int32_t blocks;  // of all parts
  int32_t out;
  int32_t words;   // per column, in the part that has most
};

// One layer. q, k and v have the same inputs, and so do gate and up.
struct Layer {
  Linear q, k, v, o, gate, up, down;
  const float* input_norm;
  const float* post_norm;
  const float* query_norm;  // [head_dim], of every query head before it is turned; null without such norms
  const float* key_norm;    // the same of key heads
  int32_t index;  // of the layer, for its place in KV pages
  int32_t reserved;
};

}  // namespace fq
