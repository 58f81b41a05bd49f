// Sixteen 32-bit lanes as four 128-bit registers; byte products by the dot product instructions of ARMv8.2.
#pragma once

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#define FQ_INLINE static inline __attribute__((always_inline))

// f of each of the four registers; written out, because an array that a loop indexes may be kept in memory.
#define FQ_EACH(f, a) {{f((a).v[0]), f((a).v[1]), f((a).v[2]), f((a).v[3])}}
#define FQ_EACH_2(f, a, b) \
  {{f((a).v[0], (b).v[0]), f((a).v[1], (b).v[1]), f((a).v[2], (b).v[2]), f((a).v[3], (b).v[3])}}
#define FQ_EACH_3(f, a, b, c) \
  {{f((a).v[0], (b).v[0], (c).v[0]), f((a).v[1], (b).v[1], (c).v[1]), f((a).v[2], (b).v[2], (c).v[2]), \
    f((a).v[3], (b).v[3], (c).v[3])}}

namespace fq::FQ_ISA {

struct Ints { int32x4_t v[4]; };
struct Floats { float32x4_t v[4]; };

// Bytes, so that words need no alignment.
FQ_INLINE int32x4_t load_quad(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
FQ_INLINE void store_quad(void* p, int32x4_t a) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(a)); }
FQ_INLINE Ints load_words(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  return {{load_quad(at), load_quad(at + 16), load_quad(at + 32), load_quad(at + 48)}};
}
FQ_INLINE void store_words(void* p, Ints a) {
  uint8_t* at = static_cast<uint8_t*>(p);
  store_quad(at, a.v[0]);
  store_quad(at + 16, a.v[1]);
  store_quad(at + 32, a.v[2]);
  store_quad(at + 48, a.v[3]);
}
FQ_INLINE Ints all_of(int32x4_t a) { return {{a, a, a, a}}; }
FQ_INLINE Ints splat(int32_t x) { return all_of(vdupq_n_s32(x)); }
// Zeros come in at either end; `by` is negative to the right.
FQ_INLINE int32x4_t shift_quad(int32x4_t a, int32x4_t by) {
  return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), by));
}
FQ_INLINE Ints shift_right(Ints a, unsigned n) { return FQ_EACH_2(shift_quad, a, splat(-static_cast<int32_t>(n))); }
FQ_INLINE Ints shift_left(Ints a, unsigned n) { return FQ_EACH_2(shift_quad, a, splat(static_cast<int32_t>(n))); }
FQ_INLINE Ints bit_and(Ints a, Ints b) { return FQ_EACH_2(vandq_s32, a, b); }
FQ_INLINE Ints bit_or(Ints a, Ints b) { return FQ_EACH_2(vorrq_s32, a, b); }
FQ_INLINE Ints bit_xor(Ints a, Ints b) { return FQ_EACH_2(veorq_s32, a, b); }
FQ_INLINE Ints and_or(Ints a, Ints mask, Ints b) { return bit_or(bit_and(a, mask), b); }
FQ_INLINE Ints subtract(Ints a, Ints b) { return FQ_EACH_2(vsubq_s32, a, b); }
FQ_INLINE Ints add_ints(Ints a, Ints b) { return FQ_EACH_2(vaddq_s32, a, b); }

FQ_INLINE int32x4_t dot_quad(int32x4_t acc, int32x4_t codes, int32x4_t bytes) {
  return vdotq_s32(acc, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(bytes));
}

// acc + the products of four unsigned bytes per lane with the same four signed bytes.
template <int kBits>
FQ_INLINE Ints dot(Ints acc, Ints codes, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  const Ints bytes = splat(four);
  if constexpr (kBits <= 6) {
    return FQ_EACH_3(dot_quad, acc, codes, bytes);
  } else {
    // The instruction takes codes as signed: they go in less 128, which 128 times the sum of the bytes makes good.
    const int32x4_t sum = dot_quad(vdupq_n_s32(0), vdupq_n_s32(0x01010101), bytes.v[0]);
    const Ints start = add_ints(acc, all_of(vshlq_n_s32(sum, 7)));
    const Ints less = bit_xor(codes, splat(static_cast<int32_t>(0x80808080u)));
    return FQ_EACH_3(dot_quad, start, less, bytes);
  }
}

FQ_INLINE Floats splat_float(float x) {
  const float32x4_t quad = vdupq_n_f32(x);
  return {{quad, quad, quad, quad}};
}
FQ_INLINE Floats zero() { return splat_float(0.0f); }
FQ_INLINE Floats to_float(Ints a) { return FQ_EACH(vcvtq_f32_s32, a); }
FQ_INLINE Floats load(const float* p) {
  return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
FQ_INLINE void store(float* p, Floats a) {
  vst1q_f32(p, a.v[0]);
  vst1q_f32(p + 4, a.v[1]);
  vst1q_f32(p + 8, a.v[2]);
  vst1q_f32(p + 12, a.v[3]);
}
FQ_INLINE Floats load_part(const float* p, int n) {
  if (n == 16) return load(p);
  alignas(64) float part[16] = {};
  __builtin_memcpy(part, p, sizeof(float) * static_cast<size_t>(n));
  return load(part);
}
FQ_INLINE void store_part(float* p, Floats a, int n) {
  if (n == 16) return store(p, a);
  alignas(64) float part[16];
  store(part, a);
  __builtin_memcpy(p, part, sizeof(float) * static_cast<size_t>(n));
}
FQ_INLINE float32x4_t from_half(uint16x4_t a) { return vcvt_f32_f16(vreinterpret_f16_u16(a)); }
FQ_INLINE uint16x4_t to_half(float32x4_t a) { return vreinterpret_u16_f16(vcvt_f16_f32(a)); }
FQ_INLINE Floats load_half(const uint16_t* p) {
  return {{from_half(vld1_u16(p)), from_half(vld1_u16(p + 4)), from_half(vld1_u16(p + 8)),
           from_half(vld1_u16(p + 12))}};
}
FQ_INLINE void store_half(uint16_t* p, Floats a) {
  vst1_u16(p, to_half(a.v[0]));
  vst1_u16(p + 4, to_half(a.v[1]));
  vst1_u16(p + 8, to_half(a.v[2]));
  vst1_u16(p + 12, to_half(a.v[3]));
}
FQ_INLINE Floats load_half_part(const uint16_t* p, int n) {
  if (n == 16) return load_half(p);
  alignas(32) uint16_t part[16] = {};
  __builtin_memcpy(part, p, sizeof(uint16_t) * static_cast<size_t>(n));
  return load_half(part);
}
FQ_INLINE void store_half_part(uint16_t* p, Floats a, int n) {
  if (n == 16) return store_half(p, a);
  alignas(32) uint16_t part[16];
  store_half(part, a);
  __builtin_memcpy(p, part, sizeof(uint16_t) * static_cast<size_t>(n));
}
FQ_INLINE Floats add(Floats a, Floats b) { return FQ_EACH_2(vaddq_f32, a, b); }
FQ_INLINE Floats sub(Floats a, Floats b) { return FQ_EACH_2(vsubq_f32, a, b); }
FQ_INLINE Floats mul(Floats a, Floats b) { return FQ_EACH_2(vmulq_f32, a, b); }
FQ_INLINE Floats div(Floats a, Floats b) { return FQ_EACH_2(vdivq_f32, a, b); }
FQ_INLINE Floats fma(Floats a, Floats b, Floats c) { return FQ_EACH_3(vfmaq_f32, c, a, b); }
FQ_INLINE Floats maximum(Floats a, Floats b) { return FQ_EACH_2(vmaxq_f32, a, b); }
FQ_INLINE Floats minimum(Floats a, Floats b) { return FQ_EACH_2(vminq_f32, a, b); }
FQ_INLINE Floats absolute(Floats a) { return FQ_EACH(vabsq_f32, a); }
FQ_INLINE Ints round_to_int(Floats a) { return FQ_EACH(vcvtnq_s32_f32, a); }
FQ_INLINE Floats bits_as_float(Ints a) { return FQ_EACH(vreinterpretq_f32_s32, a); }
FQ_INLINE float32x4_t zero_quad_below(float32x4_t a, float32x4_t x, float32x4_t limit) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vcgeq_f32(x, limit)));
}
// `a` where x < limit is false, else 0.
FQ_INLINE Floats zero_below(Floats a, Floats x, Floats limit) { return FQ_EACH_3(zero_quad_below, a, x, limit); }
FQ_INLINE float sum_of(Floats a) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3])));
}
FQ_INLINE float max_of(Floats a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}
FQ_INLINE int32_t sum_of(Ints a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}
FQ_INLINE Floats gather(const float* base, const int32_t* index) {
  alignas(64) float part[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) part[i] = base[index[i]];
  return load(part);
}
FQ_INLINE void store_bytes(int8_t* p, Ints a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

// Scales of 16 columns: lane i has its index at nibble i / 2 of word i % 2.
FQ_INLINE Floats look_up_scales(const uint16_t* table, const uint8_t* indices) {
  // Byte k has lane 4k and, above it, lane 4k + 2; byte 4 + k has lanes 4k + 1 and 4k + 3.
  static const uint8_t kLaneOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const uint8x8_t packed = vld1_u8(indices);
  const uint8x16_t nibbles = vcombine_u8(vand_u8(packed, vdup_n_u8(15)), vshr_n_u8(packed, 4));
  const uint8x16_t index = vqtbl1q_u8(nibbles, vld1q_u8(kLaneOrder));
  // The two bytes of a scale are looked up side by side in the 32 bytes of the table.
  const uint8x16_t first = vshlq_n_u8(index, 1), second = vorrq_u8(first, vdupq_n_u8(1));
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(table);
  const uint8x16x2_t halves = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
  const uint16x8_t low = vreinterpretq_u16_u8(vqtbl2q_u8(halves, vzip1q_u8(first, second)));
  const uint16x8_t high = vreinterpretq_u16_u8(vqtbl2q_u8(halves, vzip2q_u8(first, second)));
  return {{from_half(vget_low_u16(low)), from_half(vget_high_u16(low)), from_half(vget_low_u16(high)),
           from_half(vget_high_u16(high))}};
}

}  // namespace fq::FQ_ISA
