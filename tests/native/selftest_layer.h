// A whole layer on several threads, against the same steps taken one by one.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "../../engine/native/cpp/decoder_layer.h"
#include "selftest_attention.h"
#include "selftest_matrix.h"
#include "selftest_products.h"

namespace selftest {

// x [rows][m.in], after a norm if there is one, times a matrix: row by row and block by block.
inline Guarded<float> times(const Kernels& kernels, const fq::Matrix& m, const float* x, int rows, const float* norm,
                            float eps) {
  Guarded<float> out(int64_t{rows} * m.out);
  for (int row = 0; row < rows; ++row) {
    RoundedRows one(1, m.units);
    const float* source = x + int64_t{row} * m.in;
    Guarded<float> normed(m.in);
    if (norm) {
      kernels.rms_norm_row(source, norm, normed.data(), m.in, eps);
      source = normed.data();
    }
    kernels.round_units(m, source, 0, 0, m.units, one.x);
    for (int block = 0; block * kLanes < m.out; ++block) {
      float sums[kLanes];
      kernels.multiply(m, one.x, 0, block, 1, sums);
      const int width = std::min(kLanes, m.out - block * kLanes);
      std::copy(sums, sums + width, &out[int64_t{row} * m.out + block * kLanes]);
    }
  }
  return out;
}

// Rows of a pass: two sequences, of which the first has a history.
struct TestRows {
  int history, first_rows, second_rows;
  int rows() const { return first_rows + second_rows; }
};

class TestLayer {
 public:
  // `sharing`: k and v take the rounded inputs of q, up those of gate; else all have permutations of their own.
  TestLayer(const Kernels& kernels, bool sharing) : shape{1024, 336, 4, 2, 24, 1, 1e-6f, 0} {
    Random random(11);
    const std::vector<int32_t> order = sharing ? random_order(random, shape.hidden) : std::vector<int32_t>();
    const int query = shape.heads * shape.head_dim, key = shape.kv_heads * shape.head_dim;
    const std::vector<Groups> mixed = {{8, 32, 20}, {6, 32, 8}, {4, 32, 4}}, wide = {{8, 128, 8}};
    add(kernels, random, {mixed, query, true, 0.02f}, order);
    add(kernels, random, {mixed, key, true, 0.02f}, order);
    add(kernels, random, {sharing ? wide : mixed, key, false, 0.02f}, order);
    add(kernels, random, {{{5, 32, 2}, {4, 32, 1}}, shape.hidden, false, 0.02f}, {});
    add(kernels, random, {wide, shape.intermediate, false, 0.02f}, order);
    add(kernels, random, {sharing ? mixed : wide, shape.intermediate, false, 0.02f}, order);
    add(kernels, random, {{{6, 64, 2}, {3, 64, 3}, {2, 16, 1}}, shape.hidden, true, 0.02f}, {});
    norms_.push_back(random_floats(random, shape.hidden));
    norms_.push_back(random_floats(random, shape.hidden));
    layer_ = {packed_[0]->m, packed_[1]->m, packed_[2]->m, packed_[3]->m, packed_[4]->m, packed_[5]->m, packed_[6]->m,
              norms_[0].data(), norms_[1].data(), sharing ? 0 : -1, sharing ? 1 : -1, sharing ? 0 : -1, 1};
  }

  fq::Shape shape;

  // Hidden states of the rows after the layer: by run_layer on `threads` threads, or, with 0, step by step.
  Guarded<float> run(const Kernels& kernels, const TestRows& rows, int threads) const {
    const int page_count = (rows.history + rows.first_rows + kPageTokens - 1) / kPageTokens + 1;
    const int64_t page_bytes = int64_t{2} * 2 * shape.kv_heads * kPageTokens * shape.head_dim * 2;
    Guarded<uint8_t> memory(page_bytes * page_count);
    memset(memory.data(), 0xff, static_cast<size_t>(memory.bytes()));
    std::vector<uint64_t> pages;  // the second sequence has the first page of memory
    for (int i = 1; i <= page_count; ++i) {
      pages.push_back(reinterpret_cast<uint64_t>(memory.data() + i % page_count * page_bytes));
    }

    Random random(12);
    if (rows.history > 0) {
      const fq::Segment before = {0, rows.history, 0, 0, pages.data()};
      pass(kernels, random, &before, 1, rows.history, threads);
    }
    const fq::Segment segments[2] = {{0, rows.first_rows, rows.history, 0, pages.data()},
                                     {rows.first_rows, rows.second_rows, 0, 0, &pages.back()}};
    return pass(kernels, random, segments, 2, rows.rows(), threads);
  }

 private:
  std::vector<std::unique_ptr<TestMatrix::Packed>> packed_;
  std::vector<Guarded<float>> norms_;
  fq::Layer layer_;

  void add(const Kernels& kernels, Random& random, const Plan& plan, const std::vector<int32_t>& order) {
    packed_.push_back(std::make_unique<TestMatrix::Packed>(TestMatrix(plan, random, order).pack(kernels)));
  }

  Guarded<float> pass(const Kernels& kernels, Random& random, const fq::Segment* segments, int n_segments, int rows,
                      int threads) const {
    Guarded<float> hidden = random_floats(random, int64_t{rows} * shape.hidden);
    const Guarded<float> cos = random_floats(random, int64_t{rows} * shape.head_dim),
                         sin = random_floats(random, int64_t{rows} * shape.head_dim);
    if (threads == 0) {
      step_by_step(kernels, hidden, cos, sin, segments, n_segments, rows);
      return hidden;
    }
    int units = 0, wide_units = 0;
    for (const fq::Matrix* m : {&layer_.q, &layer_.k, &layer_.v, &layer_.gate, &layer_.up}) {
      units = std::max(units, m->units);
    }
    for (const fq::Matrix* m : {&layer_.o, &layer_.down}) wide_units = std::max(wide_units, m->units);
    Guarded<uint8_t> scratch(fq::scratch_bytes(shape, rows, units, wide_units));
    memset(scratch.data(), 0xff, static_cast<size_t>(scratch.bytes()));
    fq::Pool pool(threads);
    fq::run_layer({kernels, pool, shape, rows, hidden.data(), cos.data(), sin.data(), segments, n_segments,
                   scratch.data()}, layer_);
    return hidden;
  }

  void step_by_step(const Kernels& kernels, Guarded<float>& hidden, const Guarded<float>& cos,
                    const Guarded<float>& sin, const fq::Segment* segments, int n_segments, int rows) const {
    const int query = shape.heads * shape.head_dim, key = shape.kv_heads * shape.head_dim;
    Guarded<float> q = times(kernels, layer_.q, hidden.data(), rows, layer_.input_norm, shape.norm_eps);
    Guarded<float> k = times(kernels, layer_.k, hidden.data(), rows, layer_.input_norm, shape.norm_eps);
    const Guarded<float> v = times(kernels, layer_.v, hidden.data(), rows, layer_.input_norm, shape.norm_eps);
    Guarded<float> attended(int64_t{rows} * query);
    for (int s = 0; s < n_segments; ++s) {
      for (int r = 0; r < segments[s].rows; ++r) {
        const int row = segments[s].first_row + r;
        const float *row_cos = &cos[row * shape.head_dim], *row_sin = &sin[row * shape.head_dim];
        kernels.rotate_heads(&q[row * query], row_cos, row_sin, shape.heads, shape.head_dim,
                             1.0f / sqrtf(static_cast<float>(shape.head_dim)));
        kernels.rotate_heads(&k[row * key], row_cos, row_sin, shape.kv_heads, shape.head_dim, 1.0f);
        for (int head = 0; head < shape.kv_heads; ++head) {
          const int at = row * key + head * shape.head_dim;
          kernels.append(shape, segments[s], layer_.index, head, r, &k[at], &v[at]);
        }
      }
      for (int r = 0; r < segments[s].rows; ++r) {
        const int64_t at = int64_t{segments[s].first_row} * query;
        for (int head = 0; head < shape.kv_heads; ++head)
          kernels.attend(shape, segments[s], layer_.index, head, r, r + 1, &q[at], query, &attended[at]);
      }
    }
    const Guarded<float> o = times(kernels, layer_.o, attended.data(), rows, nullptr, 0);
    for (int64_t i = 0; i < hidden.size(); ++i) hidden[i] += o[i];
    const Guarded<float> gate = times(kernels, layer_.gate, hidden.data(), rows, layer_.post_norm, shape.norm_eps);
    const Guarded<float> up = times(kernels, layer_.up, hidden.data(), rows, layer_.post_norm, shape.norm_eps);
    Guarded<float> gated(gate.size());
    kernels.swiglu_row(gate.data(), up.data(), gated.data(), static_cast<int>(gate.size()));
    const Guarded<float> down = times(kernels, layer_.down, gated.data(), rows, nullptr, 0);
    for (int64_t i = 0; i < hidden.size(); ++i) hidden[i] += down[i];
  }
};

inline void check_layer(const Kernels& kernels) {
  for (bool sharing : {false, true}) {
    const TestLayer layer(kernels, sharing);
    for (const TestRows& rows : {TestRows{0, 1, 1}, TestRows{60, 11, 8}, TestRows{5, 2, 1}}) {
      snprintf(subject, sizeof subject, "%s, layer of %d rows, %s", kernels.name, rows.rows(),
               sharing ? "sharing" : "apart");
      const Guarded<float> expected = layer.run(kernels, rows, 0);
      bool finite = true;
      for (int64_t i = 0; i < expected.size(); ++i) finite = finite && isfinite(expected[i]);
      CHECK(finite);
      CHECK(layer.run(kernels, rows, 1).same_bits(expected));
      CHECK(layer.run(kernels, rows, 3).same_bits(expected));
    }
  }
}

// run_matrix and run_head, whose steps the tests of the kernels cover.
inline void check_whole_matrices(const Kernels& kernels) {
  snprintf(subject, sizeof subject, "%s, whole matrices", kernels.name);
  Random random(13);
  constexpr int kRows = 19;
  constexpr float kEps = 1e-6f;
  const TestMatrix t({{{6, 128, 9}, {4, 40, 1}}, 157, true}, random);
  const TestMatrix::Packed p = t.pack(kernels);
  const fq::Shape shape = {t.in, 0, 1, 1, 8, 1, kEps, 0};
  const Guarded<float> norm = random_floats(random, t.in);
  Guarded<float> x = random_floats(random, int64_t{kRows} * t.in), exact(int64_t{kRows} * t.out);
  const Guarded<float> plain = times(kernels, p.m, x.data(), kRows, nullptr, 0);
  const Guarded<float> normed = times(kernels, p.m, x.data(), kRows, norm.data(), kEps);
  for (int row = 0; row < kRows; ++row) {
    for (int block = 0; block * kLanes < t.out; ++block) {
      float sums[kLanes];
      kernels.multiply_exact(p.m, &x[int64_t{row} * t.in], block, sums);
      std::copy(sums, sums + std::min(kLanes, t.out - block * kLanes), &exact[int64_t{row} * t.out + block * kLanes]);
    }
  }
  Guarded<uint8_t> scratch(fq::rounded_bytes(kRows, p.m.units));
  for (int threads : {1, 3}) {
    fq::Pool pool(threads);
    Guarded<float> out(exact.size());
    fq::run_matrix(kernels, pool, p.m, x.data(), kRows, true, out.data(), scratch.data());
    CHECK(out.same_bits(exact));
    fq::run_matrix(kernels, pool, p.m, x.data(), kRows, false, out.data(), scratch.data());
    CHECK(out.same_bits(plain));
    const fq::Pass pass = {kernels, pool, shape, kRows, x.data(), nullptr, nullptr, nullptr, 0, scratch.data()};
    fq::run_head(pass, p.m, norm.data(), out.data());
    CHECK(out.same_bits(normed));
  }
}

}  // namespace selftest
