// Products of rounded activations with quantized matrices, 16 columns at a time.
//
// Within a unit the products are exact integers; a row's result is a chain of one fused multiply-add per unit, in the
// order of the units. That chain does not depend on the other rows, so a row's result is the same bits in any company.
#pragma once

#include "matrix.h"
#include "unpack.h"

namespace fq::FQ_ISA {

template <int kRows, int kBits>
FQ_INLINE void add_unit(const Ints codes[8], const Inputs& x, int64_t place, Floats scale, Floats acc[kRows]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const int8_t* bytes = x.codes + (place + r) * kUnitRows;
    // The codes are unsigned: their zero point, 2^(bits - 1), is taken off through the sum of the activations.
    Ints products = shift_left(splat(x.sums[place + r]), kBits - 1);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) products = dot<kBits>(products, codes[j], bytes + 4 * j);
    acc[r] = fma(to_float(products), mul(scale, splat_float(x.scales[place + r])), acc[r]);
  }
}

// Bytes ahead at which weights are asked for, into the second-level cache. Measured: with several rows, or with narrow
// codes, so much arithmetic lies between two loads that the processor by itself does not look far enough ahead; with
// one row of wide codes it does, and asking costs.
constexpr int kAhead = 4096;

// Add the units of a run to sums [kRows][16], for the rows of one row block and the columns of one block.
template <int kRows, int kBits>
static void multiply_run(const Matrix& m, const Run& run, const Inputs& x, int64_t first_place, int block,
                         float* sums) {
  Floats acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = load(sums + kLanes * r);
  const uint8_t* planes = codes_of(m, run, block);
  const uint8_t* indices = m.scales + (static_cast<int64_t>(block) * m.groups + run.first_group) * 8;
  const uint16_t* table = m.tables + static_cast<int64_t>(run.first_group) * kLanes;
  int64_t place = first_place + static_cast<int64_t>(run.first_unit) * kRows;
  for (int group = 0; group < run.groups; ++group, indices += 8, table += kLanes) {
    const Floats scale = look_up_scales(table, indices);
    int rows = run.rows_per_group;
    for (; rows >= kUnitRows; rows -= kUnitRows, planes += 64 * kBits, place += kRows) {
      Ints codes[8];
      if constexpr (kRows > 1 || kBits < 4) {
        for (int i = 0; i < kBits; ++i) __builtin_prefetch(planes + kAhead + 64 * i, 0, 2);
      }
      unpack<kBits>(planes, codes);
      add_unit<kRows, kBits>(codes, x, place, scale, acc);
    }
    if (rows > 0) {
      Ints codes[8];
      unpack_part<kBits>(planes, rows, codes);
      add_unit<kRows, kBits>(codes, x, place, scale, acc);
      planes += 64 * (rows * kBits / 32);
      place += kRows;
    }
  }
  for (int r = 0; r < kRows; ++r) store(sums + kLanes * r, acc[r]);
}

// Add to sums [count][kRows][16] what one matrix gives, without its residuals.
template <int kRows>
static void add_rows(const Matrix& m, const Inputs& x, int64_t first_place, int first, int count, float* sums) {
  for (int i = 0; i < m.n_runs; ++i) {
    const Run& run = m.runs[i];
    // A run before the next block: its share of the activations stays in the innermost cache.
    for (int block = first; block < first + count; ++block) {
      float* of_block = sums + kLanes * kRows * (block - first);
      switch (run.bits) {
        case 2: multiply_run<kRows, 2>(m, run, x, first_place, block, of_block); break;
        case 3: multiply_run<kRows, 3>(m, run, x, first_place, block, of_block); break;
        case 4: multiply_run<kRows, 4>(m, run, x, first_place, block, of_block); break;
        case 5: multiply_run<kRows, 5>(m, run, x, first_place, block, of_block); break;
        case 6: multiply_run<kRows, 6>(m, run, x, first_place, block, of_block); break;
        default: multiply_run<kRows, 8>(m, run, x, first_place, block, of_block); break;
      }
    }
  }
}

template <int kRows>
static void multiply_rows(const Matrix& m, const Inputs& x, int64_t first_place, int first, int count, float* sums) {
  for (int i = 0; i < count * kRows; ++i) store(sums + kLanes * i, zero());
  for (const Matrix* part = &m; part; part = part->residual) add_rows<kRows>(*part, x, first_place, first, count, sums);
}

FQ_INLINE void add_bias(const Matrix& m, int block, int rows, float* sums) {
  const int left = m.out - block * kLanes, n = left < kLanes ? left : kLanes;
  if (!m.bias || n <= 0) return;
  const Floats bias = load_half_part(m.bias + block * kLanes, n);
  for (int r = 0; r < rows; ++r) store(sums + kLanes * r, add(load(sums + kLanes * r), bias));
}

// sums [count][rows of the row block][16] = the rows of `row_block` times the blocks [first, first + count) of columns,
// plus the bias.
static void multiply(const Matrix& m, const Inputs& x, int row_block, int first, int count, float* sums) {
  const int64_t first_place = static_cast<int64_t>(row_block) * kRowBlock * x.units;
  const int rows = rows_of_block(x, row_block);
  switch (rows) {
    case 1: multiply_rows<1>(m, x, first_place, first, count, sums); break;
    case 2: multiply_rows<2>(m, x, first_place, first, count, sums); break;
    case 3: multiply_rows<3>(m, x, first_place, first, count, sums); break;
    case 4: multiply_rows<4>(m, x, first_place, first, count, sums); break;
    case 5: multiply_rows<5>(m, x, first_place, first, count, sums); break;
    case 6: multiply_rows<6>(m, x, first_place, first, count, sums); break;
    case 7: multiply_rows<7>(m, x, first_place, first, count, sums); break;
    default: multiply_rows<8>(m, x, first_place, first, count, sums); break;
  }
  for (int i = 0; i < count; ++i) add_bias(m, first + i, rows, sums + kLanes * rows * i);
}

}  // namespace fq::FQ_ISA
