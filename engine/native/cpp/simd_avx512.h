// Sixteen 32-bit lanes as one 512-bit register; byte products by VNNI.
#pragma once

#include <immintrin.h>
#include <stdint.h>

// GCC 12 takes the deliberately undefined operands in its own headers for mistakes (GCC bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define FQ_INLINE static inline __attribute__((always_inline))

namespace fq::FQ_ISA {

struct Ints { __m512i v; };
struct Floats { __m512 v; };

FQ_INLINE Ints load_words(const void* p) { return {_mm512_loadu_si512(p)}; }
FQ_INLINE void store_words(void* p, Ints a) { _mm512_storeu_si512(p, a.v); }
FQ_INLINE Ints splat(int32_t x) { return {_mm512_set1_epi32(x)}; }
FQ_INLINE Ints shift_right(Ints a, unsigned n) { return {_mm512_srli_epi32(a.v, n)}; }
FQ_INLINE Ints shift_left(Ints a, unsigned n) { return {_mm512_slli_epi32(a.v, n)}; }
FQ_INLINE Ints bit_and(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
FQ_INLINE Ints bit_or(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
FQ_INLINE Ints bit_xor(Ints a, Ints b) { return {_mm512_xor_si512(a.v, b.v)}; }
FQ_INLINE Ints and_or(Ints a, Ints mask, Ints b) { return {_mm512_ternarylogic_epi32(a.v, mask.v, b.v, 0xEA)}; }
FQ_INLINE Ints subtract(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }

// acc + the products of four unsigned bytes per lane with the same four signed bytes.
template <int kBits>
FQ_INLINE Ints dot(Ints acc, Ints codes, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return {_mm512_dpbusd_epi32(acc.v, codes.v, _mm512_set1_epi32(four))};
}

FQ_INLINE Floats splat_float(float x) { return {_mm512_set1_ps(x)}; }
FQ_INLINE Floats zero() { return {_mm512_setzero_ps()}; }
FQ_INLINE Floats to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
FQ_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
FQ_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
FQ_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
FQ_INLINE Floats load_part(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
FQ_INLINE void store_part(float* p, Floats a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
FQ_INLINE Floats load_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
FQ_INLINE Floats load_half_part(const uint16_t* p, int n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))};
}
FQ_INLINE void store_half_part(uint16_t* p, Floats a, int n) {
  _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
FQ_INLINE Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
FQ_INLINE Floats sub(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
FQ_INLINE Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
FQ_INLINE Floats div(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
FQ_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FQ_INLINE Floats maximum(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
FQ_INLINE Floats minimum(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
FQ_INLINE Floats absolute(Floats a) { return {_mm512_abs_ps(a.v)}; }
FQ_INLINE Ints round_to_int(Floats a) { return {_mm512_cvtps_epi32(a.v)}; }
FQ_INLINE Floats bits_as_float(Ints a) { return {_mm512_castsi512_ps(a.v)}; }
FQ_INLINE Ints add_ints(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
// `a` where x < limit is false, else 0.
FQ_INLINE Floats zero_below(Floats a, Floats x, Floats limit) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_GE_OQ), a.v)};
}
FQ_INLINE float sum_of(Floats a) { return _mm512_reduce_add_ps(a.v); }
FQ_INLINE float max_of(Floats a) { return _mm512_reduce_max_ps(a.v); }
FQ_INLINE int32_t sum_of(Ints a) { return _mm512_reduce_add_epi32(a.v); }
FQ_INLINE Floats gather(const float* base, const int32_t* index) {
  return {_mm512_i32gather_ps(_mm512_loadu_si512(index), base, 4)};
}
FQ_INLINE void store_bytes(int8_t* p, Ints a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

// Scales of 16 columns: lane i has its index at nibble i / 2 of word i % 2.
FQ_INLINE Floats look_up_scales(const uint16_t* table, const uint8_t* indices) {
  int64_t packed;
  __builtin_memcpy(&packed, indices, 8);
  const __m512i shifts = _mm512_set_epi32(28, 28, 24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4, 0, 0);
  const __m512i index = _mm512_srlv_epi32(_mm512_set1_epi64(packed), shifts);
  return {_mm512_permutexvar_ps(index, load_half(table).v)};
}

}  // namespace fq::FQ_ISA
