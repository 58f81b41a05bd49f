// Weights of 64 inputs as two byte vectors, looked up by AVX-512BW; bits of planes are masks.
#pragma once

#include "bytes_avx512.h"

namespace fq::FQ_ISA {

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

}  // namespace fq::FQ_ISA
