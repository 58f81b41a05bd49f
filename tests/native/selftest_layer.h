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

// A layer of matrices side by side.
struct TestLinear {
  std::vector<std::unique_ptr<TestMatrix::Packed>> packed;
  std::vector<fq::Part> parts;
  int blocks = 0, out = 0, words = 0;

  void add(const Kernels& kernels, const TestMatrix& matrix) {
    packed.push_back(std::make_unique<TestMatrix::Packed>(matrix.pack(kernels)));
    const fq::Matrix& m = packed.back()->m;
    parts.push_back({m, blocks, 0});
    blocks += m.blocks;
    out += m.out;
    words = std::max(words, m.words);
  }
  int in() const { return parts[0].matrix.in; }
  fq::Linear linear() const { return {parts.data(), static_cast<int32_t>(parts.size()), blocks, out, words}; }
};

// Number the rounded inputs of layers that take the same ones; bytes that they take together for so many rows. The
// parts in these tests that have one permutation also have the same units.
inline int64_t number_inputs(const std::vector<TestLinear*>& linears, int rows) {
  std::vector<const fq::Matrix*> forms;
  int64_t bytes = 0;
  for (TestLinear* l : linears) {
    for (fq::Part& p : l->parts) {
      size_t i = 0;
      const size_t bytes_of_order = sizeof(int32_t) * static_cast<size_t>(p.matrix.in);
      while (i < forms.size() && memcmp(forms[i]->perm, p.matrix.perm, bytes_of_order)) ++i;
      if (i == forms.size()) {
        forms.push_back(&p.matrix);
        bytes += fq::rounded_bytes(rows, p.matrix.units);
      }
      CHECK(forms[i]->units == p.matrix.units);
      p.inputs = static_cast<int32_t>(i);
    }
  }
  return bytes;
}

// x [rows][in], after a norm if there is one, times a layer: row by row, part by part and block by block.
inline Guarded<float> times(const Kernels& kernels, const TestLinear& l, const float* x, int rows, const float* norm,
                            float eps) {
  Guarded<float> out(int64_t{rows} * l.out);
  for (int row = 0; row < rows; ++row) {
    const float* source = x + int64_t{row} * l.in();
    Guarded<float> normed(l.in());
    if (norm) {
      kernels.rms_norm_row(source, norm, normed.data(), l.in(), eps);
      source = normed.data();
    }
    for (const fq::Part& p : l.parts) {
      const fq::Matrix& m = p.matrix;
      RoundedRows one(1, m.units);
      kernels.round_units(m, source, 0, 0, m.units, one.x);
      for (int block = 0; block * kLanes < m.out; ++block) {
        float sums[kLanes];
        kernels.multiply(m, one.x, 0, block, 1, sums);
        const int width = std::min(kLanes, m.out - block * kLanes);
        std::copy(sums, sums + width, &out[int64_t{row} * l.out + (p.first_block + block) * kLanes]);
      }
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
  // `cut`: every layer is cut, each part has widths of its own, and with `sharing` every second one the common
  // permutation. `head_norms`: every query and key head has a norm, and a part of it is turned.
  TestLayer(const Kernels& kernels, bool sharing, bool cut, bool head_norms)
      : shape{1024, 336, 4, 2, 24, 1, 1e-6f, head_norms ? 18 : 24} {
    Random random(11);
    const std::vector<int32_t> order = sharing ? random_order(random, shape.hidden) : std::vector<int32_t>();
    const int query = shape.heads * shape.head_dim, key = shape.kv_heads * shape.head_dim;
    const std::vector<Groups> mixed = {{8, 32, 20}, {6, 32, 8}, {4, 32, 4}}, wide = {{8, 128, 8}};
    const std::vector<Groups> o = {{5, 32, 2}, {4, 32, 1}}, o_wide = {{8, 32, 3}};
    const std::vector<Groups> down = {{6, 64, 2}, {3, 64, 3}, {2, 16, 1}}, down_wide = {{8, 48, 7}};
    const auto add = [&](TestLinear& linear, const std::vector<Groups>& groups, const std::vector<Groups>& others,
                         bool bias, const std::vector<int32_t>& shared, std::vector<int> widths) {
      for (size_t i = 0; i < widths.size(); ++i) {
        const Plan plan = {i % 2 ? others : groups, widths[i], bias, 0.02f};
        linear.add(kernels, TestMatrix(plan, random, i % 2 ? std::vector<int32_t>() : shared));
      }
    };
    using Widths = std::vector<int>;
    add(q_, mixed, wide, true, order, cut ? Widths{32, 32, query - 64} : Widths{query});
    add(k_, mixed, wide, true, order, cut ? Widths{32, key - 32} : Widths{key});
    add(v_, sharing ? wide : mixed, mixed, false, order, Widths{key});
    add(o_, o, o_wide, false, {}, cut ? Widths{512, 480, 32} : Widths{shape.hidden});
    add(gate_, wide, mixed, false, order, cut ? Widths{160, shape.intermediate - 160} : Widths{shape.intermediate});
    add(up_, sharing ? mixed : wide, wide, false, order,
        cut ? Widths{64, 32, 192, shape.intermediate - 288} : Widths{shape.intermediate});
    add(down_, down, down_wide, true, {}, cut ? Widths{32, shape.hidden - 32} : Widths{shape.hidden});
    for (int i = 0; i < 2; ++i) norms_.push_back(random_floats(random, shape.hidden));
    for (int i = 0; i < 2 && head_norms; ++i) head_norms_.push_back(random_floats(random, shape.head_dim));
  }

  fq::Shape shape;

  // Hidden states of the rows after the layer: by run_layer on `threads` threads, or, with 0, step by step.
  Guarded<float> run(const Kernels& kernels, const TestRows& rows, int threads) {
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
  TestLinear q_, k_, v_, o_, gate_, up_, down_;
  std::vector<Guarded<float>> norms_, head_norms_;

  const float* head_norm(size_t i) const { return head_norms_.empty() ? nullptr : head_norms_[i].data(); }

  Guarded<float> pass(const Kernels& kernels, Random& random, const fq::Segment* segments, int n_segments, int rows,
                      int threads) {
    Guarded<float> hidden = random_floats(random, int64_t{rows} * shape.hidden);
    const Guarded<float> cos = random_floats(random, int64_t{rows} * shape.rotary_dim),
                         sin = random_floats(random, int64_t{rows} * shape.rotary_dim);
    if (threads == 0) {
      step_by_step(kernels, hidden, cos, sin, segments, n_segments, rows);
      return hidden;
    }
    const int64_t rounded = std::max({number_inputs({&q_, &k_, &v_}, rows), number_inputs({&o_}, rows),
                                      number_inputs({&gate_, &up_}, rows), number_inputs({&down_}, rows)});
    const fq::Layer layer = {q_.linear(), k_.linear(), v_.linear(), o_.linear(), gate_.linear(), up_.linear(),
                             down_.linear(), norms_[0].data(), norms_[1].data(), head_norm(0), head_norm(1), kTestLayer,
                             0};
    Guarded<uint8_t> scratch(fq::scratch_bytes(shape, rows, rounded));
    memset(scratch.data(), 0xff, static_cast<size_t>(scratch.bytes()));
    fq::Pool pool(threads);
    fq::run_layer({kernels, pool, shape, rows, hidden.data(), cos.data(), sin.data(), segments, n_segments,
                   scratch.data()}, layer);
    return hidden;
  }

  void norm_heads(const Kernels& kernels, float* x, int heads, const float* norm) const {
    Guarded<float> normed(shape.head_dim);
    for (int head = 0; norm && head < heads; ++head, x += shape.head_dim) {
      kernels.rms_norm_row(x, norm, normed.data(), shape.head_dim, shape.norm_eps);
      std::copy(normed.data(), normed.data() + shape.head_dim, x);
    }
  }

  void step_by_step(const Kernels& kernels, Guarded<float>& hidden, const Guarded<float>& cos,
                    const Guarded<float>& sin, const fq::Segment* segments, int n_segments, int rows) const {
    const int query = shape.heads * shape.head_dim, key = shape.kv_heads * shape.head_dim;
    Guarded<float> q = times(kernels, q_, hidden.data(), rows, norms_[0].data(), shape.norm_eps);
    Guarded<float> k = times(kernels, k_, hidden.data(), rows, norms_[0].data(), shape.norm_eps);
    const Guarded<float> v = times(kernels, v_, hidden.data(), rows, norms_[0].data(), shape.norm_eps);
    Guarded<float> attended(int64_t{rows} * query);
    for (int s = 0; s < n_segments; ++s) {
      for (int r = 0; r < segments[s].rows; ++r) {
        const int row = segments[s].first_row + r;
        const float *row_cos = &cos[row * shape.rotary_dim], *row_sin = &sin[row * shape.rotary_dim];
        norm_heads(kernels, &q[row * query], shape.heads, head_norm(0));
        norm_heads(kernels, &k[row * key], shape.kv_heads, head_norm(1));
        kernels.rotate_heads(&q[row * query], row_cos, row_sin, shape.heads, shape.head_dim, shape.rotary_dim,
                             1.0f / sqrtf(static_cast<float>(shape.head_dim)));
        kernels.rotate_heads(&k[row * key], row_cos, row_sin, shape.kv_heads, shape.head_dim, shape.rotary_dim, 1.0f);
        for (int head = 0; head < shape.kv_heads; ++head) {
          const int at = row * key + head * shape.head_dim;
          kernels.append(shape, segments[s], kTestLayer, head, r, &k[at], &v[at]);
        }
      }
      for (int r = 0; r < segments[s].rows; ++r) {
        const int64_t at = int64_t{segments[s].first_row} * query;
        for (int head = 0; head < shape.kv_heads; ++head)
          kernels.attend(shape, segments[s], kTestLayer, head, r, r + 1, &q[at], query, &attended[at]);
      }
    }
    const Guarded<float> o = times(kernels, o_, attended.data(), rows, nullptr, 0);
    for (int64_t i = 0; i < hidden.size(); ++i) hidden[i] += o[i];
    const Guarded<float> gate = times(kernels, gate_, hidden.data(), rows, norms_[1].data(), shape.norm_eps);
    const Guarded<float> up = times(kernels, up_, hidden.data(), rows, norms_[1].data(), shape.norm_eps);
    Guarded<float> gated(gate.size());
    kernels.swiglu_row(gate.data(), up.data(), gated.data(), static_cast<int>(gate.size()));
    const Guarded<float> down = times(kernels, down_, gated.data(), rows, nullptr, 0);
    for (int64_t i = 0; i < hidden.size(); ++i) hidden[i] += down[i];
  }
};

inline void check_layer(const Kernels& kernels) {
  for (int kind = 0; kind < 5; ++kind) {
    const bool sharing = kind & 1, cut = kind & 2, head_norms = kind & 4;
    TestLayer layer(kernels, sharing, cut, head_norms);
    for (const TestRows& rows : {TestRows{0, 1, 1}, TestRows{60, 11, 8}, TestRows{5, 2, 1}}) {
      snprintf(subject, sizeof subject, "%s, layer of %d rows, %s%s%s", kernels.name, rows.rows(),
               sharing ? "sharing" : "apart", cut ? ", cut" : "", head_norms ? ", norms of heads" : "");
      const Guarded<float> expected = layer.run(kernels, rows, 0);
      bool finite = true;
      for (int64_t i = 0; i < expected.size(); ++i) finite = finite && isfinite(expected[i]);
      CHECK(finite);
      CHECK(layer.run(kernels, rows, 1).same_bits(expected));
      CHECK(layer.run(kernels, rows, 3).same_bits(expected));
    }
  }
}

// run_linear and run_head, whose steps the tests of the kernels cover.
inline void check_whole_matrices(const Kernels& kernels) {
  snprintf(subject, sizeof subject, "%s, whole matrices", kernels.name);
  Random random(13);
  constexpr int kRows = 19;
  constexpr float kEps = 1e-6f;
  TestLinear t;
  t.add(kernels, TestMatrix({{{6, 128, 9}, {4, 40, 1}}, 64, true}, random));
  t.add(kernels, TestMatrix({{{3, 32, 37}, {8, 8, 1}}, 32, false}, random));
  t.add(kernels, TestMatrix({{{6, 128, 9}, {4, 40, 1}}, 61, true}, random));
  const int64_t rounded = number_inputs({&t}, kRows);
  const fq::Linear linear = t.linear();
  const fq::Shape shape = {t.in(), 0, 1, 1, 8, 1, kEps, 8};
  const Guarded<float> norm = random_floats(random, t.in());
  Guarded<float> x = random_floats(random, int64_t{kRows} * t.in()), exact(int64_t{kRows} * t.out);
  const Guarded<float> plain = times(kernels, t, x.data(), kRows, nullptr, 0);
  const Guarded<float> normed = times(kernels, t, x.data(), kRows, norm.data(), kEps);
  for (int row = 0; row < kRows; ++row) {
    for (const fq::Part& p : t.parts) {
      for (int block = 0; block * kLanes < p.matrix.out; ++block) {
        float sums[kLanes];
        kernels.multiply_exact(p.matrix, &x[int64_t{row} * t.in()], block, sums);
        std::copy(sums, sums + std::min(kLanes, p.matrix.out - block * kLanes),
                  &exact[int64_t{row} * t.out + (p.first_block + block) * kLanes]);
      }
    }
  }
  Guarded<uint8_t> scratch(rounded);
  for (int threads : {1, 3}) {
    fq::Pool pool(threads);
    Guarded<float> out(exact.size());
    fq::run_linear(kernels, pool, linear, x.data(), kRows, true, out.data(), scratch.data());
    CHECK(out.same_bits(exact));
    fq::run_linear(kernels, pool, linear, x.data(), kRows, false, out.data(), scratch.data());
    CHECK(out.same_bits(plain));
    const fq::Pass pass = {kernels, pool, shape, kRows, x.data(), nullptr, nullptr, nullptr, 0, scratch.data()};
    fq::run_head(pass, linear, norm.data(), out.data());
    CHECK(out.same_bits(normed));
  }
}

}  // namespace selftest
