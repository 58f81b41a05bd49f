// Weights, rounded activations and their products, against sums in double precision.
#pragma once

#include <algorithm>

#include "selftest_matrix.h"

namespace selftest {

// Rounded rows with the memory that they take.
struct RoundedRows {
  Guarded<int8_t> codes;
  Guarded<float> scales;
  Guarded<int32_t> sums;
  fq::Inputs x;

  RoundedRows(int rows, int units)
      : codes(int64_t{kUnitRows} * rows * units), scales(int64_t{1} * rows * units), sums(int64_t{1} * rows * units),
        x{codes.data(), scales.data(), sums.data(), units, rows} {}

  // Where unit `unit` of a row lies: rows in blocks of 8, a block of n rows as [units][n].
  int64_t place(int row, int unit) const {
    const int first = row / 8 * 8, in_block = x.rows - first < 8 ? x.rows - first : 8;
    return int64_t{1} * first * x.units + int64_t{1} * unit * in_block + row % 8;
  }
};

inline void check_weights(const Kernels& kernels, const TestMatrix& t, const TestMatrix::Packed& p) {
  const int blocks = t.columns / kLanes;
  Guarded<float> floats(int64_t{kLanes} * t.in);
  Guarded<uint16_t> halves(int64_t{t.columns} * t.in), bfloats(int64_t{kLanes} * t.in);
  for (int block = 0; block < blocks; ++block) {
    kernels.dequantize_block(p.m, block, 0, floats.data(), kLanes);
    kernels.dequantize_block(p.m, block, 1, halves.data() + kLanes * block, t.columns);
    kernels.dequantize_block(p.m, block, 2, bfloats.data(), kLanes);
    for (int row = 0; row < t.in; ++row) {
      for (int i = 0; i < kLanes; ++i) {
        const double weight = as_half(t.code(row, block * kLanes + i) * t.scale(row, block * kLanes + i));
        CHECK(floats[row * kLanes + i] == weight);
        CHECK(half_value(halves[int64_t{row} * t.columns + block * kLanes + i]) == weight);
        CHECK(bfloat_value(bfloats[row * kLanes + i]) == as_bfloat(weight));
      }
    }
  }
}

// `x` [rows][in] in the model's order, rounded for the matrix in pieces of a few units.
inline RoundedRows round_rows(const Kernels& kernels, const TestMatrix::Packed& p, const float* x, int rows) {
  RoundedRows rounded(rows, p.m.units);
  Random random(7);
  for (int row = 0; row < rows; ++row) {
    for (int first = 0; first < p.m.units;) {
      const int last = first + 1 + random.below(p.m.units - first);
      kernels.round_units(p.m, x + int64_t{row} * p.m.in, row, first, last, rounded.x);
      first = last;
    }
  }
  return rounded;
}

inline void check_rounding(const TestMatrix& t, const RoundedRows& rounded, const float* x) {
  for (int row = 0; row < rounded.x.rows; ++row) {
    for (size_t unit = 0; unit < t.units.size(); ++unit) {
      const int64_t place = rounded.place(row, static_cast<int>(unit));
      const double scale = rounded.scales[place];
      double largest = 0;
      int sum = 0;
      for (int i = 0; i < kUnitRows; ++i) {
        const int code = rounded.codes[place * kUnitRows + i];
        sum += code;
        if (i >= t.units[unit].rows) {
          CHECK(code == 0);
          continue;
        }
        const int input = t.perm[static_cast<size_t>(t.units[unit].first_row + i)];
        const double value = x[int64_t{row} * t.in + input];
        largest = std::max(largest, fabs(value));
        CHECK(code >= -127 && code <= 127);
        CHECK_NEAR(code * scale, value, scale / 2 + scale * 1e-4);
      }
      CHECK_NEAR(scale, largest / 127, largest * 1e-8);
      CHECK(rounded.sums[place] == -sum);
    }
  }
}

// 16 sums of a row and a block of columns, and the same from the row by itself.
inline void check_sums(const Kernels& kernels, const TestMatrix& t, const TestMatrix::Packed& p,
                       const RoundedRows& rounded, int row, int block, const float* sums) {
  for (int i = 0; i < kLanes; ++i) {
    const int column = block * kLanes + i;
    double sum = t.bias(column), size = fabs(sum);
    for (size_t unit = 0; unit < t.units.size(); ++unit) {
      const Unit& u = t.units[unit];
      const int64_t place = rounded.place(row, static_cast<int>(unit));
      int product = 0, products = 0;
      for (int k = 0; k < u.rows; ++k) {
        const int term = t.code(u.first_row + k, column) * rounded.codes[place * kUnitRows + k];
        product += term;
        products += abs(term);
      }
      const double scale = t.scale(u.first_row, column) * rounded.scales[place];
      sum += product * scale;
      size += products * scale;
    }
    CHECK_NEAR(sums[i], sum, 1e-5 * size);
  }
  RoundedRows one(1, rounded.x.units);
  for (int unit = 0; unit < rounded.x.units; ++unit) {
    const int64_t place = rounded.place(row, unit);
    memcpy(&one.codes[int64_t{unit} * kUnitRows], &rounded.codes[place * kUnitRows], kUnitRows);
    one.scales[unit] = rounded.scales[place];
    one.sums[unit] = rounded.sums[place];
  }
  Guarded<float> alone(kLanes);
  kernels.multiply(p.m, one.x, 0, block, 1, alone.data());
  CHECK(same_bits(alone.data(), sums, kLanes));
}

inline void check_products(const Kernels& kernels, const TestMatrix& t, const TestMatrix::Packed& p,
                           const RoundedRows& rounded) {
  const int rows = rounded.x.rows, blocks = t.columns / kLanes;
  Random random(14);
  for (int row_block = 0; row_block * 8 < rows; ++row_block) {
    const int in_block = std::min(8, rows - row_block * 8);
    for (int first = 0, count; first < blocks; first += count) {
      count = 1 + random.below(blocks - first);
      Guarded<float> sums(int64_t{kLanes} * in_block * count);
      kernels.multiply(p.m, rounded.x, row_block, first, count, sums.data());
      for (int i = 0; i < count * in_block; ++i) {
        check_sums(kernels, t, p, rounded, row_block * 8 + i % in_block, first + i / in_block, &sums[i * kLanes]);
      }
    }
  }
}

inline void check_exact_products(const Kernels& kernels, const TestMatrix& t, const TestMatrix::Packed& p,
                                 const float* x) {
  Guarded<float> sums(kLanes);
  for (int block = 0; block < t.columns / kLanes; ++block) {
    kernels.multiply_exact(p.m, x, block, sums.data());
    for (int i = 0; i < kLanes; ++i) {
      const int column = block * kLanes + i;
      double sum = t.bias(column), size = fabs(sum);
      for (int row = 0; row < t.in; ++row) {
        const double term = t.code(row, column) * t.scale(row, column) * x[t.perm[static_cast<size_t>(row)]];
        sum += term;
        size += fabs(term);
      }
      CHECK_NEAR(sums[i], sum, 1e-5 * size);
    }
  }
}

// Random matrices and rows.
inline void check_matrices(const Kernels& kernels) {
  Random random(1);
  int number = 0;
  for (const Plan& plan : plans()) {
    snprintf(subject, sizeof subject, "%s, matrix %d of %d bits first", kernels.name, number, plan.groups[0].bits);
    const TestMatrix t(plan, random);
    const TestMatrix::Packed p = t.pack(kernels), reference = t.pack(fq::kPortableKernels);
    CHECK(p.codes.same_bits(reference.codes));
    check_weights(kernels, t, p);

    // Every number of rows gets its turn; 19 are three blocks.
    const int rows = number % 9 == 8 ? 19 : number % 9 + 1;
    Guarded<float> x = random_floats(random, int64_t{rows} * t.in, 3.0f);
    const Unit& empty = t.units[static_cast<size_t>(random.below(static_cast<int>(t.units.size())))];
    for (int i = 0; i < empty.rows; ++i) x[t.perm[static_cast<size_t>(empty.first_row + i)]] = 0;
    check_exact_products(kernels, t, p, x.data());

    const RoundedRows rounded = round_rows(kernels, p, x.data(), rows);
    check_rounding(t, rounded, x.data());
    const RoundedRows others = round_rows(fq::kPortableKernels, p, x.data(), rows);
    CHECK(rounded.codes.same_bits(others.codes) && rounded.scales.same_bits(others.scales));
    CHECK(rounded.sums.same_bits(others.sums));
    check_products(kernels, t, p, rounded);
    ++number;
  }
}

// Products of the largest numbers there are: sums of 16 bits would overflow.
inline void check_extremes(const Kernels& kernels) {
  Random random(2);
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int code = 0; code < 2; ++code) {
      snprintf(subject, sizeof subject, "%s, %s codes of %d bits", kernels.name, code ? "largest" : "smallest", bits);
      const TestMatrix t({{{bits, 64, 2}}, 16, false, 1.0f, code}, random);
      const TestMatrix::Packed p = t.pack(kernels);
      RoundedRows rounded(5, p.m.units);
      for (int row = 0; row < 5; ++row) {
        for (int unit = 0; unit < p.m.units; ++unit) {
          const int64_t place = rounded.place(row, unit);
          rounded.scales[place] = 0.5f;
          for (int i = 0; i < kUnitRows; ++i) {
            // All positive, all negative, and signs that cancel within pairs, between pairs and between groups of 4.
            const int sign = row == 0 ? 1 : row == 1 ? -1 : (i >> (row - 2)) % 2 ? -1 : 1;
            rounded.codes[place * kUnitRows + i] = static_cast<int8_t>(127 * sign);
            rounded.sums[place] -= 127 * sign;
          }
        }
      }
      check_products(kernels, t, p, rounded);
    }
  }
}

// Residuals of every width on every width: the sums of both matrices, and the same bits for a row in any company.
inline void check_residuals(const Kernels& kernels) {
  Random random(21);
  for (int low_bits : {2, 3, 4, 5, 6, 8}) {
    for (int bits : {2, 3, 4, 5, 6, 8}) {
      snprintf(subject, sizeof subject, "%s, residuals of %d bits on %d", kernels.name, bits, low_bits);
      const TestMatrix low({{{low_bits, 64, 2}, {low_bits, 32, 1}}, 40, true}, random);
      const TestMatrix high({{{bits, 64, 2}, {bits, 32, 1}}, 40}, random, low.perm);
      const TestMatrix::Packed p = low.pack(kernels), q = high.pack(kernels);
      fq::Matrix residual = q.m, both = p.m;
      residual.perm = nullptr;
      both.residual = &residual;
      const int rows = 9, blocks = low.columns / kLanes, count = kLanes * blocks;
      Guarded<float> x(int64_t{low.in} * rows);
      for (int64_t i = 0; i < x.size(); ++i) x[i] = random.value();
      const RoundedRows rounded = round_rows(kernels, p, x.data(), rows);
      for (int row_block = 0; row_block < 2; ++row_block) {
        const int in_block = row_block == 0 ? 8 : 1;
        Guarded<float> of_low(count * in_block), of_high(count * in_block), of_both(count * in_block);
        kernels.multiply(p.m, rounded.x, row_block, 0, blocks, of_low.data());
        kernels.multiply(q.m, rounded.x, row_block, 0, blocks, of_high.data());
        kernels.multiply(both, rounded.x, row_block, 0, blocks, of_both.data());
        for (int64_t i = 0; i < of_both.size(); ++i)
          CHECK_NEAR(of_both[i], of_low[i] + of_high[i], 1e-4 * (fabs(of_low[i]) + fabs(of_high[i]) + 1e-2));
        for (int row = 0; row < in_block; ++row) {
          const float* source = x.data() + int64_t{low.in} * (row_block * 8 + row);
          const RoundedRows single = round_rows(kernels, p, source, 1);
          Guarded<float> alone(count);
          kernels.multiply(both, single.x, 0, 0, blocks, alone.data());
          for (int block = 0; block < blocks; ++block)
            for (int i = 0; i < kLanes; ++i)
              CHECK(alone[block * kLanes + i] == of_both[(int64_t{block} * in_block + row) * kLanes + i]);
        }
      }
      Guarded<float> exact_low(kLanes), exact_high(kLanes), exact_both(kLanes);
      for (int block = 0; block < blocks; ++block) {
        kernels.multiply_exact(p.m, x.data(), block, exact_low.data());
        kernels.multiply_exact(q.m, x.data(), block, exact_high.data());
        kernels.multiply_exact(both, x.data(), block, exact_both.data());
        for (int i = 0; i < kLanes; ++i)
          CHECK_NEAR(exact_both[i], exact_low[i] + exact_high[i], 1e-4 * (fabs(exact_low[i]) + fabs(exact_high[i]) + 1e-2));
      }
    }
  }
}

// Units of numbers so small that 127 / largest overflows count as zeros; small numbers otherwise do not.
inline void check_tiny_activations(const Kernels& kernels) {
  snprintf(subject, sizeof subject, "%s, tiny activations", kernels.name);
  Random random(3);
  const TestMatrix t({{{8, 32, 2}, {4, 40, 2}}, 16}, random);
  const TestMatrix::Packed p = t.pack(kernels);
  Guarded<float> x(t.in);
  for (int exponent : {-110, -126, -140}) {
    for (int i = 0; i < t.in; ++i) x[i] = i % 3 ? ldexpf(random.value(), exponent) : 0.0f;
    const RoundedRows rounded = round_rows(kernels, p, x.data(), 1);
    if (exponent == -110) {
      check_rounding(t, rounded, x.data());
      continue;
    }
    for (int64_t i = 0; i < rounded.codes.size(); ++i) CHECK(rounded.codes[i] == 0);
    for (int unit = 0; unit < p.m.units; ++unit) CHECK(rounded.scales[unit] == 0 && rounded.sums[unit] == 0);
  }
}

}  // namespace selftest
