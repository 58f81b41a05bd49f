// Weights of 64 inputs as two byte vectors, looked up by AVX2.
//
// A weight w is 255 * high + low with bytes from -127 to 127: two products of such then fit into 16 bits, in which the
// multiply-add instructions add them up.
#pragma once

#include "simd_avx2.h"

namespace fq::FQ_ISA {

FQ_INLINE void split(Ints weights, uint8_t* low, uint8_t* high) {
  // w + 127 divided by 255, rounded down: with 128 * 255 added to it a shift can do that (exact below 65535).
  const Ints v = add_ints(weights, splat(32767));
  const Ints quotient = shift_right(add_ints(add_ints(v, splat(1)), shift_right(v, 8)), 8);
  const Ints above = subtract(quotient, splat(128));
  store_bytes(reinterpret_cast<int8_t*>(high), above);
  store_bytes(reinterpret_cast<int8_t*>(low), add_ints(subtract(weights, shift_left(above, 8)), above));
}

struct Weights { __m256i low[2], high[2]; };  // inputs 0 to 31 and 32 to 63

template <int kBits>
struct Tables { const uint8_t *low, *high; };

template <int kBits>
FQ_INLINE Tables<kBits> load_tables(const uint8_t* low, const uint8_t* high) {
  return {low, high};
}

// Byte i has all bits set where bit i of the word is.
FQ_INLINE __m256i bytes_of(uint32_t word) {
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                          2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(word)), spread);
  return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
}

// Entry `code` of the 16 that the bits above the lowest four name, of which `higher` are the most significant first.
template <int kHigherBits>
FQ_INLINE __m256i look_up_bytes(const uint8_t* table, __m256i code, const __m256i* higher) {
  if constexpr (kHigherBits == 0) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), code);
  } else {
    constexpr int kHalf = 16 << (kHigherBits - 1);
    return _mm256_blendv_epi8(look_up_bytes<kHigherBits - 1>(table, code, higher + 1),
                              look_up_bytes<kHigherBits - 1>(table + kHalf, code, higher + 1), higher[0]);
  }
}

template <int kBits>
FQ_INLINE Weights look_up(const Tables<kBits>& tables, const uint64_t* const* planes, int64_t word) {
  constexpr int kHigher = kBits > 4 ? kBits - 4 : 0;
  Weights result;
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    __m256i higher[kHigher + 1], code = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int p = 0; p < kBits; ++p) {
      const __m256i set = bytes_of(static_cast<uint32_t>(planes[p][word] >> (32 * half)));
      if (p < kHigher) {
        higher[p] = set;
      } else {
        const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << (kBits - 1 - p)));
        code = _mm256_or_si256(code, _mm256_and_si256(set, bit));
      }
    }
    result.low[half] = look_up_bytes<kHigher>(tables.low, code, higher);
    result.high[half] = look_up_bytes<kHigher>(tables.high, code, higher);
  }
  return result;
}

struct Activations { __m256i bytes[2], sizes[2]; };  // from -127 to 127, and their magnitudes

FQ_INLINE Activations load_activations(const int8_t* first, const int8_t* second) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
  const __m256i high =
      second ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)) : _mm256_setzero_si256();
  return {{low, high}, {_mm256_abs_epi8(low), _mm256_abs_epi8(high)}};
}

// factor * the sums of the products of four signed bytes with the same four activations.
FQ_INLINE __m256i products(__m256i bytes, __m256i x, __m256i sizes, int16_t factor) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, _mm256_sign_epi8(bytes, x)), _mm256_set1_epi16(factor));
}

// Lane i: the sum of the products of weights and activations 4 i to 4 i + 3.
FQ_INLINE Ints dot(const Weights& w, const Activations& x) {
  return {_mm256_add_epi32(products(w.high[0], x.bytes[0], x.sizes[0], 255), products(w.low[0], x.bytes[0], x.sizes[0], 1)),
          _mm256_add_epi32(products(w.high[1], x.bytes[1], x.sizes[1], 255), products(w.low[1], x.bytes[1], x.sizes[1], 1))};
}

// `a` in the first eight lanes, `b` in the others.
FQ_INLINE Floats two_floats(float a, float b) { return {_mm256_set1_ps(a), _mm256_set1_ps(b)}; }

}  // namespace fq::FQ_ISA
