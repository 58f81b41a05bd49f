// Weights of 64 inputs as two byte vectors, looked up by NEON; products by the dot product instructions of ARMv8.2.
//
// A weight w is 256 * high + low with signed bytes.
#pragma once

#include "simd_neon.h"

namespace fq::FQ_ISA {

FQ_INLINE void split(Ints weights, uint8_t* low, uint8_t* high) {
  const Ints above = subtract(shift_right(add_ints(weights, splat(32768 + 128)), 8), splat(128));
  store_bytes(reinterpret_cast<int8_t*>(high), above);
  store_bytes(reinterpret_cast<int8_t*>(low), subtract(weights, shift_left(above, 8)));
}

struct Weights { uint8x16_t low[4], high[4]; };

template <int kBits>
struct Tables { const uint8_t *low, *high; };

template <int kBits>
FQ_INLINE Tables<kBits> load_tables(const uint8_t* low, const uint8_t* high) {
  return {low, high};
}

FQ_INLINE uint8x16x4_t load_four(const uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}

template <int kBits>
FQ_INLINE uint8x16_t look_up_bytes(const uint8_t* table, uint8x16_t code) {
  if constexpr (kBits <= 4) {
    return vqtbl1q_u8(vld1q_u8(table), code);
  } else if constexpr (kBits == 5) {
    return vqtbl2q_u8({{vld1q_u8(table), vld1q_u8(table + 16)}}, code);
  } else {
    // A code beyond a piece of 64 entries leaves the byte as it was.
    uint8x16_t result = vqtbl4q_u8(load_four(table), code);
    for (int piece = 1; piece < 1 << (kBits - 6); ++piece)
      result = vqtbx4q_u8(result, load_four(table + 64 * piece), vsubq_u8(code, vdupq_n_u8(static_cast<uint8_t>(64 * piece))));
    return result;
  }
}

template <int kBits>
FQ_INLINE Weights look_up(const Tables<kBits>& tables, const uint64_t* const* planes, int64_t word) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
  Weights result;
#pragma GCC unroll 4
  for (int quarter = 0; quarter < 4; ++quarter) {
    uint8x16_t code = vdupq_n_u8(0);
#pragma GCC unroll 8
    for (int p = 0; p < kBits; ++p) {
      const uint16_t bits = static_cast<uint16_t>(planes[p][word] >> (16 * quarter));
      const uint8x16_t bytes = vcombine_u8(vdup_n_u8(static_cast<uint8_t>(bits)), vdup_n_u8(static_cast<uint8_t>(bits >> 8)));
      code = vorrq_u8(code, vandq_u8(vtstq_u8(bytes, bit), vdupq_n_u8(static_cast<uint8_t>(1 << (kBits - 1 - p)))));
    }
    result.low[quarter] = look_up_bytes<kBits>(tables.low, code);
    result.high[quarter] = look_up_bytes<kBits>(tables.high, code);
  }
  return result;
}

struct Activations { int8x16_t v[4]; };

FQ_INLINE Activations load_activations(const int8_t* first, const int8_t* second) {
  const int8x16_t none = vdupq_n_s8(0);
  return {{vld1q_s8(first), vld1q_s8(first + 16), second ? vld1q_s8(second) : none,
           second ? vld1q_s8(second + 16) : none}};
}

FQ_INLINE int32x4_t dot_signed(uint8x16_t low, uint8x16_t high, int8x16_t x) {
  const int32x4_t above = vdotq_s32(vdupq_n_s32(0), vreinterpretq_s8_u8(high), x);
  return vdotq_s32(vshlq_n_s32(above, 8), vreinterpretq_s8_u8(low), x);
}

// Lane i: the sum of the products of weights and activations 4 i to 4 i + 3.
FQ_INLINE Ints dot(const Weights& w, const Activations& x) {
  return {{dot_signed(w.low[0], w.high[0], x.v[0]), dot_signed(w.low[1], w.high[1], x.v[1]),
           dot_signed(w.low[2], w.high[2], x.v[2]), dot_signed(w.low[3], w.high[3], x.v[3])}};
}

// `a` in the first eight lanes, `b` in the others.
FQ_INLINE Floats two_floats(float a, float b) {
  return {{vdupq_n_f32(a), vdupq_n_f32(a), vdupq_n_f32(b), vdupq_n_f32(b)}};
}

}  // namespace fq::FQ_ISA
