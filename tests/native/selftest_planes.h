// Any-Precision matrices: placed, dequantized and multiplied, against sums in double precision.
//
// On disk a level of b bits on one of a bits has 32-bit words [b - a][columns][in / 32], where bit i of a plane's word w
// is that of input 32 w + i, planes from the most significant bit on, and weights fp16 [columns][2^b].
#pragma once

#include <vector>

#include "../../engine/native/cpp/planes.h"
#include "selftest_products.h"

namespace selftest {

class TestPlanes {
 public:
  int in, out, columns;
  std::vector<int> widths;  // of the levels, from the smallest up

  TestPlanes(int inputs, int outputs, std::vector<int> levels, bool with_bias, Random& random)
      : in(inputs), out(outputs), columns((outputs + 15) / 16 * 16), widths(std::move(levels)), bias_(outputs) {
    const int bits = widths.back();
    codes_.resize(static_cast<size_t>(in) * out);
    for (int& code : codes_) code = random.below(1 << bits);
    for (int level = 0, below = 0; level < static_cast<int>(widths.size()); below = widths[level++]) {
      fill_level(widths[level], below, random);
    }
    for (int i = 0; i < out; ++i) bias_[i] = random_half(random, 10, 17);
    for (size_t level = 0; level < widths.size(); ++level) {
      fq::Matrix& m = levels_[level].m;
      m.bias = level == 0 && with_bias ? bias_.data() : nullptr;
      m.residual = level + 1 < widths.size() ? &levels_[level + 1].m : nullptr;
    }
    has_bias_ = with_bias;
  }

  const fq::Matrix& matrix() const { return levels_[0].m; }
  double weight(int input, int column) const {
    if (column >= out) return 0;
    const int code = codes_[static_cast<size_t>(column) * in + input];
    return half_value(levels_.back().tables[static_cast<int64_t>(column) * (1 << widths.back()) + code]);
  }
  double largest(int column) const { return levels_.back().scales[column] * 32512.0; }
  double bias(int column) const { return has_bias_ && column < out ? half_value(bias_[column]) : 0.0; }

 private:
  struct Level {
    Guarded<uint64_t> planes;
    Guarded<uint16_t> tables;
    Guarded<float> scales;
    fq::Matrix m;
  };
  std::vector<int> codes_;  // [column][input]
  std::vector<Level> levels_;
  Guarded<uint16_t> bias_;
  bool has_bias_ = false;

  void fill_level(int bits, int below, Random& random) {
    const int count = bits - below, entries = 1 << bits, words = in / 32, parent = widths.back();
    const int64_t plane = fq::plane_words(columns, in);
    Level level{Guarded<uint64_t>(plane * count), Guarded<uint16_t>(int64_t{columns} * entries),
                Guarded<float>(columns), {}};
    for (int p = 0; p < count; ++p) {
      Guarded<uint32_t> source(int64_t{out} * words);
      for (int column = 0; column < out; ++column)
        for (int k = 0; k < in; ++k) {
          const unsigned code = static_cast<unsigned>(codes_[static_cast<size_t>(column) * in + k]);
          source[int64_t{column} * words + k / 32] |= (code >> (parent - 1 - below - p) & 1u) << (k % 32);
        }
      // In two pieces, as a loader with little memory does it.
      const int piece = (out + 1) / 2;
      uint64_t* target = level.planes.data() + p * plane;
      fq::place_plane(source.data(), in, 0, piece, 0, target);
      fq::place_plane(source.data() + int64_t{piece} * words, in, piece, out - piece, columns - out, target);
    }
    for (int64_t i = 0; i < int64_t{out} * entries; ++i) level.tables[i] = random_half(random, 5, 16);
    fq::table_scales(level.tables.data(), columns, entries, level.scales.data());
    level.m.codes = reinterpret_cast<const uint8_t*>(level.planes.data());
    level.m.scales = reinterpret_cast<const uint8_t*>(level.scales.data());
    level.m.tables = level.tables.data();
    level.m.in = in;
    level.m.out = out;
    level.m.blocks = columns / kLanes;
    level.m.words = count * fq::chunks_of(in) * 2;
    level.m.units = in / kUnitRows;
    level.m.bits = bits;
    levels_.push_back(std::move(level));
  }
};

inline void check_planes_weights(const Kernels& kernels, const TestPlanes& t, const float* x) {
  for (int block = 0; block < t.columns / kLanes; ++block) {
    Guarded<float> tile(int64_t{kLanes} * t.in), sums(kLanes);
    kernels.dequantize_block(t.matrix(), block, 0, tile.data(), kLanes);
    kernels.multiply_exact(t.matrix(), x, block, sums.data());
    for (int i = 0; i < kLanes; ++i) {
      double sum = t.bias(block * kLanes + i), size = fabs(sum);
      for (int k = 0; k < t.in; ++k) {
        const double weight = t.weight(k, block * kLanes + i);
        CHECK(tile[int64_t{k} * kLanes + i] == weight);
        sum += weight * x[k];
        size += fabs(weight * x[k]);
      }
      CHECK_NEAR(sums[i], sum, 1e-5 * size);
    }
  }
}

// 16 sums of a row and a block of columns, from rounded activations.
inline void check_planes_sums(const TestPlanes& t, const RoundedRows& rounded, int row, int block, const float* sums) {
  for (int i = 0; i < kLanes; ++i) {
    const int column = block * kLanes + i;
    double sum = t.bias(column), size = fabs(sum), inputs = 0;
    for (int k = 0; k < t.in; ++k) {
      const int64_t place = rounded.place(row, k / kUnitRows);
      const double value = rounded.codes[place * kUnitRows + k % kUnitRows] * double{rounded.scales[place]};
      sum += t.weight(k, column) * value;
      size += fabs(t.weight(k, column) * value);
      inputs += fabs(value);
    }
    CHECK_NEAR(sums[i], sum, 1e-5 * size + inputs * t.largest(column) / 65000);
  }
}

inline void check_planes(const Kernels& kernels) {
  Random random(31);
  const std::vector<std::vector<int>> chains = {{2}, {3},    {4},    {5},          {6},    {7},
                                                {8}, {2, 3}, {3, 8}, {3, 4, 5, 6}, {2, 5}, {4, 6, 7, 8}};
  const int inputs[] = {32, 64, 96, 352}, outputs[] = {1, 16, 37};
  int number = 0;
  for (const std::vector<int>& widths : chains) {
    const int in = inputs[number % 4], out = outputs[number % 3];
    snprintf(subject, sizeof subject, "%s, planes of %d bits, %d inputs, %d outputs", kernels.name, widths.back(), in, out);
    const TestPlanes t(in, out, widths, number % 2 == 0, random);
    for (int rows = 1; rows <= 9; ++rows) {
      Guarded<float> x = random_floats(random, int64_t{rows} * in, 3.0f);
      for (int i = 0; i < 32; ++i) x[i] = 0;
      if (rows == 1) check_planes_weights(kernels, t, x.data());
      RoundedRows rounded(rows, t.matrix().units);
      for (int row = 0; row < rows; ++row)
        kernels.round_units(t.matrix(), x.data() + int64_t{row} * in, row, 0, t.matrix().units, rounded.x);
      for (int row_block = 0; row_block * 8 < rows; ++row_block) {
        const int in_block = std::min(8, rows - row_block * 8), blocks = t.columns / kLanes;
        Guarded<float> sums(int64_t{kLanes} * in_block * blocks), alone(int64_t{kLanes} * blocks);
        kernels.multiply(t.matrix(), rounded.x, row_block, 0, blocks, sums.data());
        for (int row = 0; row < in_block; ++row) {
          RoundedRows one(1, t.matrix().units);
          kernels.round_units(t.matrix(), x.data() + int64_t{row_block * 8 + row} * in, 0, 0, t.matrix().units, one.x);
          kernels.multiply(t.matrix(), one.x, 0, 0, blocks, alone.data());
          for (int block = 0; block < blocks; ++block) {
            const float* found = &sums[(int64_t{block} * in_block + row) * kLanes];
            check_planes_sums(t, rounded, row_block * 8 + row, block, found);
            CHECK(same_bits(&alone[int64_t{block} * kLanes], found, kLanes));
          }
        }
      }
    }
    ++number;
  }
}

}  // namespace selftest
