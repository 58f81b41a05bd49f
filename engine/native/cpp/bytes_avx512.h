// Weights of 64 inputs as two byte vectors, and their products by VNNI. How they are looked up is in lookup_avx512_*.h.
//
// A weight w is 256 * high + low - 32768 with unsigned bytes, which VNNI multiplies with signed ones.
#pragma once

#include "simd_avx512.h"

namespace fq::FQ_ISA {

FQ_INLINE void split(Ints weights, uint8_t* low, uint8_t* high) {
  store_bytes(reinterpret_cast<int8_t*>(low), weights);
  store_bytes(reinterpret_cast<int8_t*>(high), shift_right(add_ints(weights, splat(32768)), 8));
}

struct Weights { __m512i low, high; };

// 64 activations, and for each lane -128 times the sum of its four: that takes the 32768 off.
struct Activations { __m512i bytes, offset; };

FQ_INLINE Activations load_activations(const int8_t* first, const int8_t* second) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
  const __m512i bytes =
      second ? _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)), 1)
             : _mm512_zextsi256_si512(low);
  const __m512i zero = _mm512_setzero_si512();
  return {bytes, _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(static_cast<char>(128)), bytes))};
}

// Lane i: the sum of the products of weights and activations 4 i to 4 i + 3.
FQ_INLINE Ints dot(const Weights& w, const Activations& x) {
  const __m512i high = _mm512_slli_epi32(_mm512_dpbusd_epi32(x.offset, w.high, x.bytes), 8);
  return {_mm512_dpbusd_epi32(high, w.low, x.bytes)};
}

// `a` in the first eight lanes, `b` in the others.
FQ_INLINE Floats two_floats(float a, float b) {
  return {_mm512_mask_broadcastss_ps(_mm512_set1_ps(a), 0xff00, _mm_set_ss(b))};
}

}  // namespace fq::FQ_ISA
