// What happens to rows between the matrices: RMS norm, rounding to int8, rotary embedding, SwiGLU.
#pragma once

#include "matrix.h"

namespace fq::FQ_ISA {

// exp(x) to about 1e-7 relative; 0 below -87. Cody and Waite's reduction, Taylor's polynomial on [-ln2/2, ln2/2].
FQ_INLINE Floats exponential(Floats x) {
  const Floats lowest = splat_float(-87.0f);
  const Floats bounded = minimum(maximum(x, lowest), splat_float(88.0f));
  const Ints n = round_to_int(mul(bounded, splat_float(1.44269504f)));
  const Floats whole = to_float(n);
  Floats r = fma(whole, splat_float(-0.693359375f), bounded);
  r = fma(whole, splat_float(2.12194440e-4f), r);
  Floats p = splat_float(1.0f / 5040);
  p = fma(p, r, splat_float(1.0f / 720));
  p = fma(p, r, splat_float(1.0f / 120));
  p = fma(p, r, splat_float(1.0f / 24));
  p = fma(p, r, splat_float(1.0f / 6));
  p = fma(p, r, splat_float(0.5f));
  p = fma(p, r, splat_float(1.0f));
  p = fma(p, r, splat_float(1.0f));
  const Floats power = bits_as_float(shift_left(add_ints(n, splat(127)), 23));
  return zero_below(mul(p, power), x, lowest);
}

// gate * sigmoid(gate) * up (Shazeer, arXiv 2002.05202).
FQ_INLINE Floats swiglu(Floats gate, Floats up) {
  const Floats denominator = add(splat_float(1.0f), exponential(sub(zero(), gate)));
  return mul(div(gate, denominator), up);
}

static void swiglu_row(const float* gate, const float* up, float* out, int n) {
  for (int i = 0; i < n; i += kLanes) {
    const int left = n - i < kLanes ? n - i : kLanes;
    store_part(out + i, swiglu(load_part(gate + i, left), load_part(up + i, left)), left);
  }
}

// 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich, arXiv 1910.07467).
static float inverse_rms(const float* x, int n, float eps) {
  Floats squares[4] = {zero(), zero(), zero(), zero()};
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const Floats part = load(x + i + j * kLanes);
      squares[j] = fma(part, part, squares[j]);
    }
  }
  for (; i < n; i += kLanes) {
    const Floats part = load_part(x + i, n - i < kLanes ? n - i : kLanes);
    squares[0] = fma(part, part, squares[0]);
  }
  const float sum = sum_of(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
  return 1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
}

static void rms_norm_row(const float* x, const float* weight, float* out, int n, float eps) {
  const Floats inverse = splat_float(inverse_rms(x, n, eps));
  for (int i = 0; i < n; i += kLanes) {
    const int left = n - i < kLanes ? n - i : kLanes;
    store_part(out + i, mul(mul(load_part(x + i, left), inverse), load_part(weight + i, left)), left);
  }
}

// Inputs perm[0..n) of a row as values[32], zeros behind.
FQ_INLINE void gather_unit(const float* row, const int32_t* perm, int n, Floats values[2]) {
  if (n == kUnitRows) {
    values[0] = gather(row, perm);
    values[1] = gather(row, perm + kLanes);
    return;
  }
  alignas(64) float part[kUnitRows] = {};
  for (int i = 0; i < n; ++i) part[i] = row[perm[i]];
  values[0] = load(part);
  values[1] = load(part + kLanes);
}

// Rows of a unit: groups are cut into units of 32 rows from their start, so only a group's last one may be shorter.
struct UnitWalk {
  const Matrix& m;
  int run = 0, group = 0, row_in_group = 0, row = 0;

  int rows() const {
    const int left = m.runs[run].rows_per_group - row_in_group;
    return left < kUnitRows ? left : kUnitRows;
  }
  void next() {
    const int taken = rows();
    row += taken;
    row_in_group += taken;
    if (row_in_group < m.runs[run].rows_per_group) return;
    row_in_group = 0;
    if (++group < m.runs[run].groups) return;
    group = 0;
    ++run;
  }
  void skip(int units) {
    // Runs of whole units, the usual case, are skipped at once.
    while (units > 0 && run < m.n_runs) {
      const Run& r = m.runs[run];
      const int per_group = (r.rows_per_group + kUnitRows - 1) / kUnitRows;
      if (group == 0 && row_in_group == 0 && units >= per_group * r.groups) {
        units -= per_group * r.groups;
        row += r.rows_per_group * r.groups;
        ++run;
      } else if (row_in_group == 0 && units >= per_group) {
        const int left = r.groups - group, whole = units / per_group < left ? units / per_group : left;
        units -= per_group * whole;
        row += r.rows_per_group * whole;
        group += whole;
        if (group == r.groups) {
          group = 0;
          ++run;
        }
      } else {
        next();
        --units;
      }
    }
  }
};

// Round the 32 values of a unit and put them where the unit of row `r` lies.
FQ_INLINE void round_unit(const Floats values[2], int unit, int r, const Inputs& out) {
  const int block = r / kRowBlock, in_block = r % kRowBlock, block_rows = rows_of_block(out, block);
  const float largest = max_of(maximum(absolute(values[0]), absolute(values[1])));
  // Values so small that 127 / largest would be infinite count as zeros.
  const bool zeros = largest <= 1e-36f;
  const float scale = zeros ? 0.0f : largest / 127.0f;
  const Floats factor = splat_float(zeros ? 0.0f : 127.0f / largest);
  const int64_t place =
      static_cast<int64_t>(block) * kRowBlock * out.units + static_cast<int64_t>(unit) * block_rows + in_block;
  const Ints low = round_to_int(mul(values[0], factor)), high = round_to_int(mul(values[1], factor));
  store_bytes(out.codes + place * kUnitRows, low);
  store_bytes(out.codes + place * kUnitRows + kLanes, high);
  out.scales[place] = scale;
  out.sums[place] = -sum_of(add_ints(low, high));
}

// Round units [first, last) of one row for the matrix `m`: codes = round(x / scale), scale = max|x| / 127 of the unit.
static void round_units(const Matrix& m, const float* row, int r, int first, int last, const Inputs& out) {
  if (m.bits) {  // inputs in the model's order, and no groups
    for (int unit = first; unit < last; ++unit) {
      const float* at = row + static_cast<int64_t>(unit) * kUnitRows;
      const Floats values[2] = {load(at), load(at + kLanes)};
      round_unit(values, unit, r, out);
    }
    return;
  }
  UnitWalk walk{m};
  walk.skip(first);
  for (int unit = first; unit < last; ++unit) {
    Floats values[2];
    gather_unit(row, m.perm + walk.row, walk.rows(), values);
    walk.next();
    round_unit(values, unit, r, out);
  }
}

// Turn the first `rotary_dim` features of `heads` consecutive heads by cos and signed sin, f32 [rotary_dim], and multiply
// all by `factor`; in place.
static void rotate_heads(float* x, const float* cos, const float* sin, int heads, int head_dim, int rotary_dim,
                         float factor) {
  const int half = rotary_dim / 2;
  const Floats f = splat_float(factor);
  for (int h = 0; h < heads; ++h, x += head_dim) {
    for (int i = 0; i < half; i += kLanes) {
      const int n = half - i < kLanes ? half - i : kLanes;
      const Floats low = load_part(x + i, n), high = load_part(x + half + i, n);
      const Floats turned_low = fma(high, load_part(sin + i, n), mul(low, load_part(cos + i, n)));
      const Floats turned_high = fma(low, load_part(sin + half + i, n), mul(high, load_part(cos + half + i, n)));
      store_part(x + i, mul(turned_low, f), n);
      store_part(x + half + i, mul(turned_high, f), n);
    }
    for (int i = rotary_dim; i < head_dim; i += kLanes) {
      const int n = head_dim - i < kLanes ? head_dim - i : kLanes;
      store_part(x + i, mul(load_part(x + i, n), f), n);
    }
  }
}

}  // namespace fq::FQ_ISA
