// The weights themselves: tiles for dense products and for checking, and products without rounding the activations.
#pragma once

#include "activations.h"
#include "matmul.h"
#include "matrix.h"
#include "unpack.h"

namespace fq::FQ_ISA {

// Call each(row, rows, codes[8], scale) for every unit of the columns of `block`; codes of missing rows are 0.
template <typename Each>
FQ_INLINE void for_each_unit(const Matrix& m, int block, Each each) {
  int row = 0, unit = 0;
  for (int i = 0; i < m.n_runs; ++i) {
    const Run& run = m.runs[i];
    const uint8_t* planes = codes_of(m, run, block);
    for (int g = 0; g < run.groups; ++g) {
      const int64_t group = run.first_group + g;
      const Floats scale =
          look_up_scales(m.tables + group * kLanes, m.scales + (static_cast<int64_t>(block) * m.groups + group) * 8);
      for (int left = run.rows_per_group; left > 0; left -= kUnitRows) {
        const int rows = left < kUnitRows ? left : kUnitRows;
        Ints codes[8];
        switch (run.bits) {
          case 2: unpack_part<2>(planes, rows, codes); break;
          case 3: unpack_part<3>(planes, rows, codes); break;
          case 4: unpack_part<4>(planes, rows, codes); break;
          case 5: unpack_part<5>(planes, rows, codes); break;
          case 6: unpack_part<6>(planes, rows, codes); break;
          default: unpack_part<8>(planes, rows, codes); break;
        }
        each(row, rows, unit, run.bits, codes, scale);
        planes += 64 * (rows * run.bits / 32);
        row += rows;
        ++unit;
      }
    }
  }
}

// code - 2^(bits - 1) of row i of the unit, for 16 columns.
FQ_INLINE Floats signed_code(const Ints codes[8], int i, int bits) {
  const Ints byte = bit_and(shift_right(codes[i / 4], static_cast<unsigned>(8 * (i % 4))), splat(255));
  return to_float(subtract(byte, splat(1 << (bits - 1))));
}

enum TileType : int { kTileFloat = 0, kTileHalf = 1, kTileBfloat = 2 };

FQ_INLINE void store_bfloat(uint16_t* p, Floats a) {
  alignas(64) uint32_t bits[kLanes];
  store(reinterpret_cast<float*>(bits), a);
  // Round to nearest even; weights are finite.
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>((bits[i] + 0x7fffu + ((bits[i] >> 16) & 1u)) >> 16);
}

// 16 weights at item `place` of a tile.
FQ_INLINE void store_tile(void* out, int64_t place, const uint16_t halves[kLanes], int type) {
  if (type == kTileHalf) {
    __builtin_memcpy(static_cast<uint16_t*>(out) + place, halves, sizeof(uint16_t) * kLanes);
  } else if (type == kTileBfloat) {
    store_bfloat(static_cast<uint16_t*>(out) + place, load_half(halves));
  } else {
    store(static_cast<float*>(out) + place, load_half(halves));
  }
}

// Weights of 16 columns, without residuals: out [in][stride], rows in packed order, each rounded once to fp16 as exllamav2 does.
static void dequantize_block(const Matrix& m, int block, int type, void* out, int64_t stride) {
  for_each_unit(m, block, [&](int row, int rows, int, int bits, const Ints codes[8], Floats scale) {
    for (int i = 0; i < rows; ++i) {
      alignas(64) uint16_t halves[kLanes];
      store_half_part(halves, mul(signed_code(codes, i, bits), scale), kLanes);
      store_tile(out, (row + i) * stride, halves, type);
    }
  });
}

// sums [16] = row (f32 [in], in the model's order) times the columns of `block`, activations as they are.
static void multiply_exact(const Matrix& m, const float* row, int block, float* sums) {
  Floats acc = zero();
  for (const Matrix* part = &m; part; part = part->residual) {
    for_each_unit(*part, block, [&](int first, int rows, int, int bits, const Ints codes[8], Floats scale) {
      Floats of_unit = zero();
      for (int i = 0; i < rows; ++i)
        of_unit = fma(signed_code(codes, i, bits), splat_float(row[m.perm[first + i]]), of_unit);
      acc = fma(of_unit, scale, acc);
    });
  }
  store(sums, acc);
  add_bias(m, block, 1, sums);
}

}  // namespace fq::FQ_ISA
