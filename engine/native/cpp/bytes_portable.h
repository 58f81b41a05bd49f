// Weights of 64 inputs in plain C++.
#pragma once

#include "simd_portable.h"

namespace fq::FQ_ISA {

// The two bytes of a number of 16 bits.
FQ_INLINE void split(Ints weights, uint8_t* low, uint8_t* high) {
  uint32_t lanes[16];
  store_words(lanes, weights);
  for (int i = 0; i < 16; ++i) {
    low[i] = static_cast<uint8_t>(lanes[i]);
    high[i] = static_cast<uint8_t>(lanes[i] >> 8);
  }
}

struct Weights { int16_t v[64]; };

template <int kBits>
struct Tables { const uint8_t *low, *high; };

template <int kBits>
FQ_INLINE Tables<kBits> load_tables(const uint8_t* low, const uint8_t* high) {
  return {low, high};
}

// A call of its own: in line it would make up much of the library.
template <int kBits>
static __attribute__((noinline)) Weights look_up(const Tables<kBits>& tables, const uint64_t* const* planes,
                                                 int64_t word) {
  uint64_t words[kBits];
  for (int p = 0; p < kBits; ++p) words[p] = planes[p][word];
  Weights result;
  for (int i = 0; i < 64; ++i) {
    unsigned code = 0;
    for (int p = 0; p < kBits; ++p) code = code << 1 | static_cast<unsigned>(words[p] >> i & 1u);
    result.v[i] = static_cast<int16_t>(static_cast<uint16_t>(tables.low[code] | tables.high[code] << 8));
  }
  return result;
}

struct Activations { int8_t v[64]; };

FQ_INLINE Activations load_activations(const int8_t* first, const int8_t* second) {
  Activations result = {};
  __builtin_memcpy(result.v, first, 32);
  if (second) __builtin_memcpy(result.v + 32, second, 32);
  return result;
}

// Lane i: the sum of the products of weights and activations 4 i to 4 i + 3.
static __attribute__((noinline)) Ints dot(const Weights& w, const Activations& x) {
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) {
    lanes[i] = 0;
    for (int j = 4 * i; j < 4 * i + 4; ++j) lanes[i] += w.v[j] * x.v[j];
  }
  return load_words(lanes);
}

// `a` in the first eight lanes, `b` in the others.
FQ_INLINE Floats two_floats(float a, float b) {
  const QuadFloats low = {a, a, a, a}, high = {b, b, b, b};
  return {{low, low, high, high}};
}

}  // namespace fq::FQ_ISA
