// Any-Precision matrices: bit planes, and for every column (output) a table of the 2^bits weights that it can have.
//
// Here a vector holds 64 inputs of one column. One bit of their codes is one 64-bit word of a plane. The column's
// weights, rounded to 16 bits (below), are split into two bytes each, which byte shuffles look up; products of bytes
// with the rounded activations are exact integers, four inputs to a lane. A lane of a result is a chain of one fused
// multiply-add per 64 inputs, in their order, and the lanes are added up at the end: nothing of that depends on the
// other rows, so a row's result is the same bits in any company.
//
// A 16-bit weight is a multiple of the column's scale, its largest magnitude / 32512: rounding moves a weight by at most
// 1 / 65024 of that magnitude. 32512 = 127 * 256 leaves every instruction set room to split it as suits it.
#pragma once

#include "matmul.h"
#include "matrix.h"
#include "planes.h"

namespace fq::FQ_ISA {

// The planes of a matrix, most significant first, of all its levels.
struct Planes {
  const uint64_t* plane[kMostPlanes];
  const Matrix* top;  // the level that has the table
  int chunks;

  explicit Planes(const Matrix& m) : top(&m), chunks(chunks_of(m.in)) {
    int n = 0;
    for (const Matrix* level = &m; level; level = level->residual) {
      const uint64_t* first = reinterpret_cast<const uint64_t*>(level->codes);
      for (int64_t p = 0; n < level->bits; ++p, ++n) plane[n] = first + p * plane_words(m.blocks * kLanes, m.in);
      top = level;
    }
  }
};

// Bytes of a column's weights, as the instruction set splits them (bytes_*.h).
template <int kBits>
struct TableBytes {
  static constexpr int kSize = 1 << (kBits < 4 ? 4 : kBits);
  alignas(64) uint8_t low[kSize], high[kSize];

  void fill(const uint16_t* table, float scale) {
    const Floats factor = splat_float(scale > 0.0f ? 1.0f / scale : 0.0f);
    constexpr int kEntries = 1 << kBits, kAtOnce = kEntries < kLanes ? kEntries : kLanes;
    for (int i = 0; i < kEntries; i += kLanes) {
      const Floats weights = kAtOnce == kLanes ? load_half(table + i) : load_half_part(table + i, kAtOnce);
      split(round_to_int(mul(weights, factor)), low + i, high + i);
    }
  }
};

// Add to acc what one chunk of 64 inputs gives, of which the second 32 may be missing.
template <int kRows, int kBits, int kColumns>
FQ_INLINE void add_chunk(const Planes& planes, int64_t word, const Tables<kBits> tables[kColumns], const Inputs& x,
                         int64_t place, bool whole, Floats acc[kRows][kColumns]) {
  Weights weights[kColumns];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) weights[c] = look_up<kBits>(tables[c], planes.plane, word + c);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const int8_t* codes = x.codes + (place + r) * kUnitRows;
    const Activations activations = load_activations(codes, whole ? codes + kRows * kUnitRows : nullptr);
    const Floats scale = two_floats(x.scales[place + r], whole ? x.scales[place + kRows + r] : 0.0f);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) acc[r][c] = fma(to_float(dot(weights[c], activations)), scale, acc[r][c]);
  }
}

// Bytes ahead at which planes are asked for, each by itself.
constexpr int kPlaneAhead = 2048;

// sums [kRows][16], of which these are those of kColumns columns: the rows of one row block times them.
template <int kRows, int kBits, int kColumns>
static void multiply_columns(const Planes& planes, const Inputs& x, int64_t first_place, int64_t column, float* sums) {
  const float* scales = reinterpret_cast<const float*>(planes.top->scales);
  TableBytes<kBits> bytes[kColumns];
  Tables<kBits> tables[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    bytes[c].fill(planes.top->tables + (column + c) * (1 << kBits), scales[column + c]);
    tables[c] = load_tables<kBits>(bytes[c].low, bytes[c].high);
  }
  Floats acc[kRows][kColumns];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) acc[r][c] = zero();
  int64_t word = word_of(planes.chunks, column, 0), place = first_place;
  for (int chunk = 0; chunk < x.units / 2; ++chunk, word += kQuad, place += 2 * kRows) {
    if constexpr (kColumns == kQuad) {
      for (int p = 0; p < kBits; ++p) __builtin_prefetch(planes.plane[p] + word + kPlaneAhead / 8, 0, 2);
    }
    add_chunk<kRows, kBits, kColumns>(planes, word, tables, x, place, true, acc);
  }
  if (x.units % 2) add_chunk<kRows, kBits, kColumns>(planes, word, tables, x, place, false, acc);
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) sums[r * kLanes + c] = sum_of(acc[r][c]) * scales[column + c];
}

// Columns that go through a chunk together, as many as registers allow: they share the loads of activations.
constexpr int columns_at_once(int rows) { return rows <= 2 ? kQuad : 2; }

template <int kRows, int kBits>
static void multiply_blocks(const Planes& planes, const Inputs& x, int64_t first_place, int first, int count,
                            float* sums) {
  constexpr int kColumns = columns_at_once(kRows);
  for (int block = first; block < first + count; ++block, sums += kRows * kLanes) {
    for (int lane = 0; lane < kLanes; lane += kColumns) {
      const int64_t column = static_cast<int64_t>(block) * kLanes + lane;
      multiply_columns<kRows, kBits, kColumns>(planes, x, first_place, column, sums + lane);
    }
  }
}

template <int kRows>
static void multiply_planes_of(const Matrix& m, const Inputs& x, int64_t first_place, int first, int count,
                               float* sums) {
  const Planes planes(m);
  switch (planes.top->bits) {
    case 2: return multiply_blocks<kRows, 2>(planes, x, first_place, first, count, sums);
    case 3: return multiply_blocks<kRows, 3>(planes, x, first_place, first, count, sums);
    case 4: return multiply_blocks<kRows, 4>(planes, x, first_place, first, count, sums);
    case 5: return multiply_blocks<kRows, 5>(planes, x, first_place, first, count, sums);
    case 6: return multiply_blocks<kRows, 6>(planes, x, first_place, first, count, sums);
    case 7: return multiply_blocks<kRows, 7>(planes, x, first_place, first, count, sums);
    default: return multiply_blocks<kRows, 8>(planes, x, first_place, first, count, sums);
  }
}

// As `multiply`, for matrices of planes.
static void multiply_planes(const Matrix& m, const Inputs& x, int row_block, int first, int count, float* sums) {
  const int64_t first_place = static_cast<int64_t>(row_block) * kRowBlock * x.units;
  const int rows = rows_of_block(x, row_block);
  switch (rows) {
    case 1: multiply_planes_of<1>(m, x, first_place, first, count, sums); break;
    case 2: multiply_planes_of<2>(m, x, first_place, first, count, sums); break;
    case 3: multiply_planes_of<3>(m, x, first_place, first, count, sums); break;
    case 4: multiply_planes_of<4>(m, x, first_place, first, count, sums); break;
    case 5: multiply_planes_of<5>(m, x, first_place, first, count, sums); break;
    case 6: multiply_planes_of<6>(m, x, first_place, first, count, sums); break;
    case 7: multiply_planes_of<7>(m, x, first_place, first, count, sums); break;
    default: multiply_planes_of<8>(m, x, first_place, first, count, sums); break;
  }
  for (int i = 0; i < count; ++i) add_bias(m, first + i, rows, sums + kLanes * rows * i);
}

}  // namespace fq::FQ_ISA
