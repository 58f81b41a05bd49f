// Keys and values in pages, and attention over them, against a softmax in double precision.
#pragma once

#include <vector>

#include "selftest_check.h"

namespace selftest {

using fq::kPageTokens;

constexpr int kTestLayer = 1;  // of two

// A sequence with its pages, and what was appended to them as plain numbers.
class Sequence {
 public:
  Sequence(const fq::Shape& shape, int tokens) : shape_(shape), tokens_(tokens) {
    const int64_t bytes = int64_t{2} * 2 * shape.kv_heads * kPageTokens * shape.head_dim * (shape.kv_is_half ? 2 : 4);
    for (int i = 0; i * kPageTokens < tokens; ++i) {
      pages_.emplace_back(bytes);
      memset(pages_.back().data(), 0xff, static_cast<size_t>(bytes));  // NaN: what was not written must not be used
      addresses_.push_back(reinterpret_cast<uint64_t>(pages_.back().data()));
    }
    keys_.resize(static_cast<size_t>(shape.kv_heads) * tokens * shape.head_dim);
    values_ = keys_;
  }

  fq::Segment segment(int start, int rows) const { return {0, rows, start, 0, addresses_.data()}; }

  void append(const fq::Kernels& kernels, Random& random, int start, int rows, float steepness) {
    const fq::Segment of_rows = segment(start, rows);
    for (int row = 0; row < rows; ++row) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const Guarded<float> key = random_floats(random, shape_.head_dim, steepness * (start + row + 1) / tokens_);
        const Guarded<float> value = random_floats(random, shape_.head_dim);
        kernels.append(shape_, of_rows, kTestLayer, head, row, key.data(), value.data());
        for (int d = 0; d < shape_.head_dim; ++d) {
          keys_[index(head, start + row) + d] = shape_.kv_is_half ? as_half(key[d]) : key[d];
          values_[index(head, start + row) + d] = shape_.kv_is_half ? as_half(value[d]) : value[d];
        }
      }
    }
  }

  std::vector<double> attended(const float* query, int head, int seen) const {
    std::vector<double> weights, result(static_cast<size_t>(shape_.head_dim));
    double largest = -INFINITY, total = 0;
    for (int t = 0; t < seen; ++t) {
      double score = 0;
      for (int d = 0; d < shape_.head_dim; ++d) score += query[d] * keys_[index(head, t) + d];
      weights.push_back(score);
      if (score > largest) largest = score;
    }
    for (double& weight : weights) total += weight = exp(weight - largest);
    for (int t = 0; t < seen; ++t)
      for (int d = 0; d < shape_.head_dim; ++d)
        result[static_cast<size_t>(d)] += weights[static_cast<size_t>(t)] / total * values_[index(head, t) + d];
    return result;
  }

 private:
  fq::Shape shape_;
  int tokens_;
  std::vector<Guarded<uint8_t>> pages_;
  std::vector<uint64_t> addresses_;
  std::vector<double> keys_, values_;  // [kv_heads][tokens][head_dim]

  size_t index(int head, int token) const {
    return static_cast<size_t>((head * tokens_ + token) * shape_.head_dim);
  }
};

// Attend for rows [first, last) of a segment: all KV heads, checked against the reference and against each query alone.
inline void check_segment(const fq::Kernels& kernels, const fq::Shape& shape, const Sequence& sequence, Random& random,
                          int start, int rows, int first, int last, double tolerance) {
  const int64_t width = int64_t{shape.heads} * shape.head_dim, stride = width + 24;
  const int shared = shape.heads / shape.kv_heads;
  const fq::Segment segment = sequence.segment(start, rows);
  const Guarded<float> queries = random_floats(random, stride * rows);
  Guarded<float> out(width * rows);
  fq::Shape single = shape;  // each KV head with one query
  single.heads = shape.kv_heads;
  for (int head = 0; head < shape.kv_heads; ++head) {
    kernels.attend(shape, segment, kTestLayer, head, first, last, queries.data(), stride, out.data());
    for (int row = first; row < last; ++row) {
      for (int q = 0; q < shared; ++q) {
        const int64_t place = int64_t{head * shared + q} * shape.head_dim;
        const float* query = queries.data() + row * stride + place;
        const float* got = out.data() + row * width + place;
        const std::vector<double> expected = sequence.attended(query, head, start + row + 1);
        for (int d = 0; d < shape.head_dim; ++d) CHECK_NEAR(got[d], expected[static_cast<size_t>(d)], tolerance);

        const int64_t single_width = int64_t{single.heads} * shape.head_dim, at = int64_t{head} * shape.head_dim;
        Guarded<float> alone_query(single_width * rows), alone(single_width * rows);
        memcpy(&alone_query[row * single_width + at], query, sizeof(float) * static_cast<size_t>(shape.head_dim));
        kernels.attend(single, segment, kTestLayer, head, row, row + 1, alone_query.data(), single_width, alone.data());
        CHECK(same_bits(&alone[row * single_width + at], got, shape.head_dim));
      }
    }
  }
}

inline void check_attention(const fq::Kernels& kernels) {
  Random random(9);
  for (int head_dim : {8, 24, 64, 96, 128}) {
    for (int shared : {1, 2, 4, 7}) {
      for (int half : {0, 1}) {
        snprintf(subject, sizeof subject, "%s, attention of %d queries by %d, %s", kernels.name, shared, head_dim,
                 half ? "half" : "float");
        const fq::Shape shape = {0, 0, 2 * shared, 2, head_dim, half, 0, 0};
        // Scores that grow along the sequence, for every second case far beyond where exp() underflows.
        const bool steep = (shared + half) % 2 == 0;
        const float steepness = steep ? 60.0f : 4.0f;
        const double tolerance = steep ? 2e-4 : 1e-5;
        Sequence sequence(shape, 140);
        sequence.append(kernels, random, 0, 61, steepness);
        check_segment(kernels, shape, sequence, random, 0, 61, 58, 61, tolerance);
        check_segment(kernels, shape, sequence, random, 0, 61, 0, 2, tolerance);
        sequence.append(kernels, random, 61, 9, steepness);  // into the second page
        check_segment(kernels, shape, sequence, random, 61, 9, 0, 9, tolerance);
        sequence.append(kernels, random, 70, 70, steepness);  // from the middle of the second into the third
        check_segment(kernels, shape, sequence, random, 70, 70, 55, 61, tolerance);
        check_segment(kernels, shape, sequence, random, 70, 70, 67, 70, tolerance);
      }
    }
  }
}

}  // namespace selftest
