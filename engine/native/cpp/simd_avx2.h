// Sixteen 32-bit lanes as two 256-bit registers; byte products by the multiply-add instructions of AVX2.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define FQ_INLINE static inline __attribute__((always_inline))

namespace fq::FQ_ISA {

struct Ints { __m256i low, high; };  // lanes 0 to 7 and 8 to 15
struct Floats { __m256 low, high; };

FQ_INLINE Ints load_words(const void* p) {
  const __m256i* at = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
FQ_INLINE void store_words(void* p, Ints a) {
  __m256i* at = static_cast<__m256i*>(p);
  _mm256_storeu_si256(at, a.low);
  _mm256_storeu_si256(at + 1, a.high);
}
FQ_INLINE Ints splat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
FQ_INLINE Ints shift_right(Ints a, unsigned n) {
  const int count = static_cast<int>(n);
  return {_mm256_srli_epi32(a.low, count), _mm256_srli_epi32(a.high, count)};
}
FQ_INLINE Ints shift_left(Ints a, unsigned n) {
  const int count = static_cast<int>(n);
  return {_mm256_slli_epi32(a.low, count), _mm256_slli_epi32(a.high, count)};
}
FQ_INLINE Ints bit_and(Ints a, Ints b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
FQ_INLINE Ints bit_or(Ints a, Ints b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
FQ_INLINE Ints bit_xor(Ints a, Ints b) { return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)}; }
FQ_INLINE Ints and_or(Ints a, Ints mask, Ints b) { return bit_or(bit_and(a, mask), b); }
FQ_INLINE Ints subtract(Ints a, Ints b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
FQ_INLINE Ints add_ints(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }

// acc + factor * (the products of four unsigned bytes per lane with the same four signed bytes). The products are added
// up as pairs of 16 bits, with saturation: codes must be below 129.
FQ_INLINE __m256i add_products(__m256i acc, __m256i codes, __m256i bytes, __m256i factor) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, bytes), factor));
}

// acc + the products of four unsigned bytes per lane with the same four signed bytes, from -127 to 127.
template <int kBits>
FQ_INLINE Ints dot(Ints acc, Ints codes, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  const __m256i bytes = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
  if constexpr (kBits <= 6) {
    return {add_products(acc.low, codes.low, bytes, ones), add_products(acc.high, codes.high, bytes, ones)};
  } else {
    // 2 * 255 * 127 does not fit in 16 bits, so the halves of a code go by themselves.
    const Ints nibbles = splat(0x0f0f0f0f);
    const Ints low = bit_and(codes, nibbles), high = bit_and(shift_right(codes, 4), nibbles);
    const __m256i sixteens = _mm256_set1_epi16(16);
    acc = {add_products(acc.low, low.low, bytes, ones), add_products(acc.high, low.high, bytes, ones)};
    return {add_products(acc.low, high.low, bytes, sixteens), add_products(acc.high, high.high, bytes, sixteens)};
  }
}

FQ_INLINE Floats splat_float(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
FQ_INLINE Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
FQ_INLINE Floats to_float(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
FQ_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
FQ_INLINE void store(float* p, Floats a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}

// All bits of the first n lanes.
FQ_INLINE Ints first(int n) {
  const __m256i count = _mm256_set1_epi32(n);
  return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

// Whole vectors take the plain instructions: a masked store costs many times as much on some machines.
FQ_INLINE Floats load_part(const float* p, int n) {
  if (n == 16) return load(p);
  const Ints mask = first(n);
  return {_mm256_maskload_ps(p, mask.low), _mm256_maskload_ps(p + 8, mask.high)};
}
FQ_INLINE void store_part(float* p, Floats a, int n) {
  if (n == 16) return store(p, a);
  const Ints mask = first(n);
  _mm256_maskstore_ps(p, mask.low, a.low);
  _mm256_maskstore_ps(p + 8, mask.high, a.high);
}
FQ_INLINE Floats load_half(const uint16_t* p) {
  const __m128i* at = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
FQ_INLINE void store_half(uint16_t* p, Floats a) {
  __m128i* at = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(at, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(at + 1, _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}
FQ_INLINE Floats load_half_part(const uint16_t* p, int n) {
  if (n == 16) return load_half(p);
  alignas(32) uint16_t part[16] = {};
  __builtin_memcpy(part, p, 2 * static_cast<size_t>(n));
  return load_half(part);
}
FQ_INLINE void store_half_part(uint16_t* p, Floats a, int n) {
  if (n == 16) return store_half(p, a);
  alignas(32) uint16_t part[16];
  store_half(part, a);
  __builtin_memcpy(p, part, 2 * static_cast<size_t>(n));
}
FQ_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
FQ_INLINE Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
FQ_INLINE Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
FQ_INLINE Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
FQ_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
FQ_INLINE Floats maximum(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
FQ_INLINE Floats minimum(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
FQ_INLINE Floats absolute(Floats a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
FQ_INLINE Ints round_to_int(Floats a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
FQ_INLINE Floats bits_as_float(Ints a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
// `a` where x < limit is false, else 0.
FQ_INLINE Floats zero_below(Floats a, Floats x, Floats limit) {
  return {_mm256_and_ps(a.low, _mm256_cmp_ps(x.low, limit.low, _CMP_GE_OQ)),
          _mm256_and_ps(a.high, _mm256_cmp_ps(x.high, limit.high, _CMP_GE_OQ))};
}
FQ_INLINE float sum_of(Floats a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
FQ_INLINE float max_of(Floats a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
FQ_INLINE int32_t sum_of(Ints a) {
  const __m256i eight = _mm256_add_epi32(a.low, a.high);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
FQ_INLINE Floats gather(const float* base, const int32_t* index) {
  const Ints at = load_words(index);
  return {_mm256_i32gather_ps(base, at.low, 4), _mm256_i32gather_ps(base, at.high, 4)};
}
// Lanes are within a signed byte.
FQ_INLINE void store_bytes(int8_t* p, Ints a) {
  const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a.low), _mm256_extracti128_si256(a.low, 1));
  const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(a.high), _mm256_extracti128_si256(a.high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
}

// Entries of a table of 16: the permutation looks at three bits of an index, the blend at the fourth.
FQ_INLINE __m256 look_up(Floats table, __m256i index) {
  const __m256 below = _mm256_permutevar8x32_ps(table.low, index), above = _mm256_permutevar8x32_ps(table.high, index);
  return _mm256_blendv_ps(below, above, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

// Scales of 16 columns: lane i has its index at nibble i / 2 of word i % 2.
FQ_INLINE Floats look_up_scales(const uint16_t* table, const uint8_t* indices) {
  int64_t packed;
  __builtin_memcpy(&packed, indices, 8);
  const __m256i words = _mm256_set1_epi64x(packed);
  const __m256i low = _mm256_srlv_epi32(words, _mm256_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12));
  const __m256i high = _mm256_srlv_epi32(words, _mm256_setr_epi32(16, 16, 20, 20, 24, 24, 28, 28));
  const Floats scales = load_half(table);
  return {look_up(scales, low), look_up(scales, high)};
}

}  // namespace fq::FQ_ISA
