// Attention of one KV head's queries over paged KV, with a running softmax (Milakov and Gimelshein, arXiv 1805.02867).
//
// A page holds the keys of a head as [head_dim][64 tokens] and its values as [64 tokens][head_dim]: both products run
// along vectors without sums across lanes. Every query goes through the pages in order and on its own, so its result
// does not depend on what else is computed with it.
#pragma once

#include "activations.h"
#include "matrix.h"

namespace fq::FQ_ISA {

constexpr int kQueries = 4;  // that share the loads of a key or value

template <bool kHalf>
FQ_INLINE Floats load_kv(const void* base, int64_t i, int n) {
  if constexpr (kHalf) {
    const uint16_t* p = static_cast<const uint16_t*>(base) + i;
    return n == kLanes ? load_half(p) : load_half_part(p, n);
  } else {
    const float* p = static_cast<const float*>(base) + i;
    return n == kLanes ? load(p) : load_part(p, n);
  }
}

// Ask for two cache lines (one token or dimension, more or less) of what is needed next, in the second-level cache: the
// first one is full with what is needed now.
template <bool kHalf>
FQ_INLINE void prefetch_row(const void* next, int i, int64_t row_items) {
  const uint8_t* row = static_cast<const uint8_t*>(next) + i * row_items * (kHalf ? 2 : 4);
  __builtin_prefetch(row, 0, 2);
  __builtin_prefetch(row + 64, 0, 2);
}

// out [kN][64] = queries [kN][head_dim] times keys [head_dim][64]; `next` are the keys that come after these.
template <bool kHalf, int kN>
static void score(const float* const queries[kN], const void* keys, const void* next, int head_dim, float* out) {
  Floats sums[kN][4];
  for (int q = 0; q < kN; ++q)
    for (int j = 0; j < 4; ++j) sums[q][j] = zero();
  for (int d = 0; d < head_dim; ++d) {
    Floats key[4];
    prefetch_row<kHalf>(next, d, kPageTokens);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      key[j] = load_kv<kHalf>(keys, static_cast<int64_t>(d) * kPageTokens + j * kLanes, kLanes);
#pragma GCC unroll 4
    for (int q = 0; q < kN; ++q) {
      const Floats query = splat_float(queries[q][d]);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums[q][j] = fma(query, key[j], sums[q][j]);
    }
  }
  for (int q = 0; q < kN; ++q)
    for (int j = 0; j < 4; ++j) store(out + q * kPageTokens + j * kLanes, sums[q][j]);
}

// out [kN][head_dim] = out * keep + weights [kN][64] times the first `tokens` values [64][head_dim]; `next` are the
// values that come after these.
template <bool kHalf, int kN>
static void blend(const float* weights, const void* values, const void* next, int tokens, int head_dim,
                  const float* keep, float* const out[kN]) {
  for (int d = 0; d < head_dim; d += 4 * kLanes) {
    Floats sums[kN][4];
    int n[4];
    for (int j = 0; j < 4; ++j) {
      const int left = head_dim - d - j * kLanes;
      n[j] = left < 0 ? 0 : left < kLanes ? left : kLanes;
      for (int q = 0; q < kN; ++q) sums[q][j] = mul(load_part(out[q] + d + j * kLanes, n[j]), splat_float(keep[q]));
    }
    if (n[3] == kLanes) {
      for (int t = 0; t < tokens; ++t) {
        Floats value[4];
        prefetch_row<kHalf>(next, t, head_dim);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          value[j] = load_kv<kHalf>(values, static_cast<int64_t>(t) * head_dim + d + j * kLanes, kLanes);
#pragma GCC unroll 4
        for (int q = 0; q < kN; ++q) {
          const Floats weight = splat_float(weights[q * kPageTokens + t]);
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) sums[q][j] = fma(weight, value[j], sums[q][j]);
        }
      }
    } else {
      for (int t = 0; t < tokens; ++t) {
        for (int j = 0; j < 4 && n[j] > 0; ++j) {
          const Floats value = load_kv<kHalf>(values, static_cast<int64_t>(t) * head_dim + d + j * kLanes, n[j]);
          for (int q = 0; q < kN; ++q) sums[q][j] = fma(splat_float(weights[q * kPageTokens + t]), value, sums[q][j]);
        }
      }
    }
    for (int q = 0; q < kN; ++q)
      for (int j = 0; j < 4; ++j) store_part(out[q] + d + j * kLanes, sums[q][j], n[j]);
  }
}

struct QueryBlock {
  const float* query[kQueries];  // f32 [head_dim], rotated and divided by sqrt(head_dim)
  float* out[kQueries];          // f32 [head_dim]
  int64_t seen[kQueries];        // tokens that the query sees: its position + 1
};

template <bool kHalf, int kN>
static void attend_block(const QueryBlock& b, const uint64_t* pages, int64_t key_offset, int64_t value_offset,
                         int head_dim) {
  alignas(64) float scores[kN * kPageTokens];
  float largest[kN], total[kN], keep[kN];
  int64_t most = 0;
  for (int q = 0; q < kN; ++q) {
    largest[q] = -__builtin_inff();
    total[q] = 0;
    if (b.seen[q] > most) most = b.seen[q];
    for (int d = 0; d < head_dim; ++d) b.out[q][d] = 0;
  }
  for (int64_t page = 0; page * kPageTokens < most; ++page) {
    const uint8_t* base = reinterpret_cast<const uint8_t*>(pages[page]);
    const bool more = (page + 1) * kPageTokens < most;
    const uint8_t* next = more ? reinterpret_cast<const uint8_t*>(pages[page + 1]) : base;
    score<kHalf, kN>(b.query, base + key_offset, next + key_offset, head_dim, scores);
    const int64_t rest = most - page * kPageTokens;
    for (int q = 0; q < kN; ++q) {
      float* of_query = scores + q * kPageTokens;
      const int64_t visible = b.seen[q] - page * kPageTokens;
      for (int64_t t = visible < 0 ? 0 : visible; t < kPageTokens; ++t) of_query[t] = -__builtin_inff();
      Floats part[4];
      for (int j = 0; j < 4; ++j) part[j] = load(of_query + j * kLanes);
      const float highest = max_of(maximum(maximum(part[0], part[1]), maximum(part[2], part[3])));
      const float now = highest > largest[q] ? highest : largest[q];
      keep[q] = largest[q] == now ? 1.0f : __builtin_expf(largest[q] - now);
      largest[q] = now;
      Floats sum = zero();
      for (int j = 0; j < 4; ++j) {
        part[j] = exponential(sub(part[j], splat_float(now)));
        store(of_query + j * kLanes, part[j]);
        sum = add(sum, part[j]);
      }
      total[q] = total[q] * keep[q] + sum_of(sum);
    }
    const int tokens = static_cast<int>(rest < kPageTokens ? rest : kPageTokens);
    blend<kHalf, kN>(scores, base + value_offset, next + value_offset, tokens, head_dim, keep, b.out);
  }
  for (int q = 0; q < kN; ++q) {
    const Floats inverse = splat_float(1.0f / total[q]);
    for (int d = 0; d < head_dim; d += kLanes) {
      const int n = head_dim - d < kLanes ? head_dim - d : kLanes;
      store_part(b.out[q] + d, mul(load_part(b.out[q] + d, n), inverse), n);
    }
  }
}

// Queries [row][head] of rows [first, last) of a segment, for the heads that share the KV head `kv_head`.
//   queries: f32 [rows][query_stride], row 0 is the segment's first; out: f32 [rows][heads * head_dim], likewise
static void attend(const Shape& shape, const Segment& segment, int layer, int kv_head, int first, int last,
                   const float* queries, int64_t query_stride, float* out) {
  const int shared = shape.heads / shape.kv_heads, head_dim = shape.head_dim;
  const int64_t item = shape.kv_is_half ? 2 : 4;
  const int64_t head_bytes = static_cast<int64_t>(kPageTokens) * head_dim * item;
  const int64_t key_offset = (static_cast<int64_t>(layer) * 2 * shape.kv_heads + kv_head) * head_bytes;
  const int64_t value_offset = key_offset + shape.kv_heads * head_bytes;
  const int total = (last - first) * shared;
  for (int i = 0; i < total; i += kQueries) {
    QueryBlock b;
    const int n = total - i < kQueries ? total - i : kQueries;
    for (int q = 0; q < n; ++q) {
      const int row = first + (i + q) / shared, head = kv_head * shared + (i + q) % shared;
      b.query[q] = queries + row * query_stride + static_cast<int64_t>(head) * head_dim;
      b.out[q] = out + (static_cast<int64_t>(row) * shape.heads + head) * head_dim;
      b.seen[q] = segment.start + row + 1;
    }
    switch (2 * n + (shape.kv_is_half ? 1 : 0)) {
      case 2: attend_block<false, 1>(b, segment.pages, key_offset, value_offset, head_dim); break;
      case 3: attend_block<true, 1>(b, segment.pages, key_offset, value_offset, head_dim); break;
      case 4: attend_block<false, 2>(b, segment.pages, key_offset, value_offset, head_dim); break;
      case 5: attend_block<true, 2>(b, segment.pages, key_offset, value_offset, head_dim); break;
      case 6: attend_block<false, 3>(b, segment.pages, key_offset, value_offset, head_dim); break;
      case 7: attend_block<true, 3>(b, segment.pages, key_offset, value_offset, head_dim); break;
      case 8: attend_block<false, 4>(b, segment.pages, key_offset, value_offset, head_dim); break;
      default: attend_block<true, 4>(b, segment.pages, key_offset, value_offset, head_dim); break;
    }
  }
}

// Write keys and values of one row and KV head into its page: `key` and `value` f32 [head_dim].
static void append(const Shape& shape, const Segment& segment, int layer, int kv_head, int row, const float* key,
                   const float* value) {
  const int head_dim = shape.head_dim, token = (segment.start + row) % kPageTokens;
  uint8_t* base = reinterpret_cast<uint8_t*>(segment.pages[(segment.start + row) / kPageTokens]);
  const int64_t head_items = static_cast<int64_t>(kPageTokens) * head_dim;
  const int64_t keys = (static_cast<int64_t>(layer) * 2 * shape.kv_heads + kv_head) * head_items + token;
  const int64_t values = (static_cast<int64_t>(layer) * 2 * shape.kv_heads + shape.kv_heads + kv_head) * head_items +
                         static_cast<int64_t>(token) * head_dim;
  if (shape.kv_is_half) {
    uint16_t* page = reinterpret_cast<uint16_t*>(base);
    alignas(64) uint16_t halves[kLanes];
    for (int d = 0; d < head_dim; d += kLanes) {
      const int n = head_dim - d < kLanes ? head_dim - d : kLanes;
      store_half_part(halves, load_part(key + d, n), n);
      for (int i = 0; i < n; ++i) page[keys + static_cast<int64_t>(d + i) * kPageTokens] = halves[i];
      store_half_part(page + values + d, load_part(value + d, n), n);
    }
  } else {
    float* page = reinterpret_cast<float*>(base);
    for (int d = 0; d < head_dim; ++d) {
      page[keys + static_cast<int64_t>(d) * kPageTokens] = key[d];
      page[values + d] = value[d];
    }
  }
}

}  // namespace fq::FQ_ISA
