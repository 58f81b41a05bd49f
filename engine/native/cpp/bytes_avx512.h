// Weights of 64 inputs as two byte vectors, looked up by AVX-512BW; products by VNNI.
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

// In pieces of 16 entries, each in all four quarters of a register.
template <int kBits>
struct Tables {
  static constexpr int kPieces = kBits <= 4 ? 1 : 1 << (kBits - 4);
  __m512i low[kPieces], high[kPieces];
};

FQ_INLINE __m512i in_all_quarters(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

template <int kBits>
FQ_INLINE Tables<kBits> load_tables(const uint8_t* low, const uint8_t* high) {
  Tables<kBits> result;
  for (int i = 0; i < Tables<kBits>::kPieces; ++i) {
    result.low[i] = in_all_quarters(low + 16 * i);
    result.high[i] = in_all_quarters(high + 16 * i);
  }
  return result;
}

// Entry `code` of the piece that the bits above the lowest four name; these are masks, the most significant first.
template <int kHigherBits>
FQ_INLINE __m512i look_up_bytes(const __m512i* pieces, __m512i code, const __mmask64* higher) {
  if constexpr (kHigherBits == 0) {
    return _mm512_shuffle_epi8(pieces[0], code);
  } else if constexpr (kHigherBits == 1) {
    return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(pieces[0], code), higher[0], pieces[1], code);
  } else {
    constexpr int kHalf = 1 << (kHigherBits - 1);
    return _mm512_mask_blend_epi8(higher[0], look_up_bytes<kHigherBits - 1>(pieces, code, higher + 1),
                                  look_up_bytes<kHigherBits - 1>(pieces + kHalf, code, higher + 1));
  }
}

// Weights of the codes whose bits are in word `word` of each plane.
template <int kBits>
FQ_INLINE Weights look_up(const Tables<kBits>& tables, const uint64_t* const* planes, int64_t word) {
  constexpr int kHigher = kBits > 4 ? kBits - 4 : 0;
  __mmask64 masks[kBits];
#pragma GCC unroll 8
  for (int p = 0; p < kBits; ++p) masks[p] = _load_mask64(reinterpret_cast<__mmask64*>(const_cast<uint64_t*>(planes[p] + word)));
  __m512i code = _mm512_maskz_mov_epi8(masks[kHigher], _mm512_set1_epi8(1 << (kBits - kHigher - 1)));
#pragma GCC unroll 4
  for (int p = kHigher + 1; p < kBits; ++p)
    code = _mm512_mask_add_epi8(code, masks[p], code, _mm512_set1_epi8(static_cast<char>(1 << (kBits - 1 - p))));
  return {look_up_bytes<kHigher>(tables.low, code, masks), look_up_bytes<kHigher>(tables.high, code, masks)};
}

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
