// Weights of 64 inputs as two byte vectors, looked up by AVX-512 VBMI; bits become codes by GFNI.
#pragma once

#include "bytes_avx512.h"

namespace fq::FQ_ISA {

// 64 entries to a register; shorter tables are padded with zeros.
template <int kBits>
struct Tables {
  static constexpr int kPieces = kBits <= 6 ? 1 : 1 << (kBits - 6);
  __m512i low[kPieces], high[kPieces];
};

template <int kBits>
FQ_INLINE __m512i load_entries(const uint8_t* p) {
  if constexpr (kBits <= 4) return _mm512_zextsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  if constexpr (kBits == 5) return _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_loadu_si512(p);
}

template <int kBits>
FQ_INLINE Tables<kBits> load_tables(const uint8_t* low, const uint8_t* high) {
  Tables<kBits> result;
  for (int i = 0; i < Tables<kBits>::kPieces; ++i) {
    result.low[i] = load_entries<kBits>(low + 64 * i);
    result.high[i] = load_entries<kBits>(high + 64 * i);
  }
  return result;
}

template <int kBits>
FQ_INLINE __m512i look_up_bytes(const __m512i* pieces, __m512i code) {
  if constexpr (kBits <= 6) {
    return _mm512_permutexvar_epi8(code, pieces[0]);
  } else if constexpr (kBits == 7) {
    return _mm512_permutex2var_epi8(pieces[0], code, pieces[1]);
  } else {
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), _mm512_permutex2var_epi8(pieces[0], code, pieces[1]),
                                  _mm512_permutex2var_epi8(pieces[2], code, pieces[3]));
  }
}

// Byte 8 i + 8 - bits + p of the result is byte 8 p + i of the planes' words: those that belong to the same 8 inputs.
template <int kBits>
FQ_INLINE __m512i gathered_bytes() {
  alignas(64) uint8_t index[64] = {};
  for (int i = 0; i < 8; ++i)
    for (int p = 0; p < kBits; ++p) index[8 * i + 8 - kBits + p] = static_cast<uint8_t>(8 * p + i);
  return _mm512_load_si512(index);
}

template <int kBits>
FQ_INLINE Weights look_up(const Tables<kBits>& tables, const uint64_t* const* planes, int64_t word) {
  const auto bits = [&](int p) { return p < kBits ? static_cast<long long>(planes[p][word]) : 0; };
  __m512i words;
  if constexpr (kBits == 2) {
    words = _mm512_castsi128_si512(_mm_set_epi64x(bits(1), bits(0)));
  } else if constexpr (kBits <= 4) {
    words = _mm512_castsi256_si512(_mm256_set_epi64x(bits(3), bits(2), bits(1), bits(0)));
  } else {
    words = _mm512_set_epi64(bits(7), bits(6), bits(5), bits(4), bits(3), bits(2), bits(1), bits(0));
  }
  constexpr uint64_t kRows = 0x0101010101010101ull * ((0xffu << (8 - kBits)) & 0xffu);
  const __m512i matrices = _mm512_maskz_permutexvar_epi8(kRows, gathered_bytes<kBits>(), words);
  // Times the matrix whose rows are these bytes, the vector that has only bit i set gives bit i of each: a code.
  const __m512i units = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201ull));
  const __m512i code = _mm512_gf2p8affine_epi64_epi8(units, matrices, 0);
  return {look_up_bytes<kBits>(tables.low, code), look_up_bytes<kBits>(tables.high, code)};
}

}  // namespace fq::FQ_ISA
