// Sixteen 32-bit lanes as four vectors of the compiler's own (GCC and Clang lower them to what a machine has): for
// machines without a set of their own, and to check the other sets by.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "half.h"

#define FQ_INLINE static inline __attribute__((always_inline))

namespace fq::FQ_ISA {

// Unsigned, so that shifts and sums are defined for every pattern of bits.
typedef uint32_t QuadWords __attribute__((vector_size(16)));
typedef int32_t QuadInts __attribute__((vector_size(16)));
typedef int16_t EightShorts __attribute__((vector_size(16)));
typedef float QuadFloats __attribute__((vector_size(16)));

struct Ints { QuadWords v[4]; };
struct Floats { QuadFloats v[4]; };

// The four vectors that `each` gives; written out, because an array that a loop indexes may be kept in memory.
template <typename To, typename Each>
FQ_INLINE To quads(Each each) {
  return {{each(0), each(1), each(2), each(3)}};
}

FQ_INLINE Ints load_words(const void* p) {
  Ints result;
  __builtin_memcpy(&result, p, 64);
  return result;
}
FQ_INLINE void store_words(void* p, Ints a) { __builtin_memcpy(p, &a, 64); }
FQ_INLINE Ints splat(int32_t x) {
  const uint32_t word = static_cast<uint32_t>(x);
  const QuadWords quad = {word, word, word, word};
  return {{quad, quad, quad, quad}};
}
FQ_INLINE Ints shift_right(Ints a, unsigned n) {
  return quads<Ints>([&](int i) { return a.v[i] >> n; });
}
FQ_INLINE Ints shift_left(Ints a, unsigned n) {
  return quads<Ints>([&](int i) { return a.v[i] << n; });
}
FQ_INLINE Ints bit_and(Ints a, Ints b) {
  return quads<Ints>([&](int i) { return a.v[i] & b.v[i]; });
}
FQ_INLINE Ints bit_or(Ints a, Ints b) {
  return quads<Ints>([&](int i) { return a.v[i] | b.v[i]; });
}
FQ_INLINE Ints bit_xor(Ints a, Ints b) {
  return quads<Ints>([&](int i) { return a.v[i] ^ b.v[i]; });
}
FQ_INLINE Ints and_or(Ints a, Ints mask, Ints b) { return bit_or(bit_and(a, mask), b); }
FQ_INLINE Ints subtract(Ints a, Ints b) {
  return quads<Ints>([&](int i) { return a.v[i] - b.v[i]; });
}
FQ_INLINE Ints add_ints(Ints a, Ints b) {
  return quads<Ints>([&](int i) { return a.v[i] + b.v[i]; });
}

// The sum of the two signed 16-bit halves of each lane.
FQ_INLINE QuadWords add_halves(EightShorts a) {
  const QuadInts lanes = reinterpret_cast<QuadInts>(a);
  const QuadInts low = reinterpret_cast<QuadInts>(reinterpret_cast<QuadWords>(a) << 16u) >> 16;
  return reinterpret_cast<QuadWords>(low + (lanes >> 16));
}

// acc + the products of four unsigned bytes per lane with the same four signed bytes, from -127 to 127: a product fits
// in 16 bits. A call of its own: in line it would make up nearly all of the library.
template <int kBits>
static __attribute__((noinline)) Ints dot(const Ints& acc, const Ints& codes, const int8_t* x) {
  const int16_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
  const EightShorts even = {x0, x2, x0, x2, x0, x2, x0, x2}, odd = {x1, x3, x1, x3, x1, x3, x1, x3};
  return quads<Ints>([&](int i) {
    const EightShorts first = reinterpret_cast<EightShorts>(codes.v[i] & 0x00ff00ffu) * even;
    const EightShorts second = reinterpret_cast<EightShorts>(codes.v[i] >> 8 & 0x00ff00ffu) * odd;
    if constexpr (kBits <= 6) {
      return acc.v[i] + add_halves(first + second);
    } else {
      return acc.v[i] + add_halves(first) + add_halves(second);
    }
  });
}

FQ_INLINE Floats splat_float(float x) {
  const QuadFloats quad = {x, x, x, x};
  return {{quad, quad, quad, quad}};
}
FQ_INLINE Floats zero() { return splat_float(0.0f); }
FQ_INLINE Floats to_float(Ints a) {
  return quads<Floats>([&](int i) { return __builtin_convertvector(reinterpret_cast<QuadInts>(a.v[i]), QuadFloats); });
}
FQ_INLINE Floats load(const float* p) {
  Floats result;
  __builtin_memcpy(&result, p, 64);
  return result;
}
FQ_INLINE void store(float* p, Floats a) { __builtin_memcpy(p, &a, 64); }
FQ_INLINE Floats load_part(const float* p, int n) {
  Floats result = zero();
  __builtin_memcpy(&result, p, sizeof(float) * static_cast<size_t>(n));
  return result;
}
FQ_INLINE void store_part(float* p, Floats a, int n) {
  __builtin_memcpy(p, &a, sizeof(float) * static_cast<size_t>(n));
}
static __attribute__((noinline)) Floats load_half_part(const uint16_t* p, int n) {
  float lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = half_to_float(p[i]);
  return load(lanes);
}
FQ_INLINE Floats load_half(const uint16_t* p) { return load_half_part(p, 16); }
static __attribute__((noinline)) void store_half_part(uint16_t* p, const Floats& a, int n) {
  float lanes[16];
  store(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = float_to_half(lanes[i]);
}
FQ_INLINE Floats add(Floats a, Floats b) {
  return quads<Floats>([&](int i) { return a.v[i] + b.v[i]; });
}
FQ_INLINE Floats sub(Floats a, Floats b) {
  return quads<Floats>([&](int i) { return a.v[i] - b.v[i]; });
}
FQ_INLINE Floats mul(Floats a, Floats b) {
  return quads<Floats>([&](int i) { return a.v[i] * b.v[i]; });
}
FQ_INLINE Floats div(Floats a, Floats b) {
  return quads<Floats>([&](int i) { return a.v[i] / b.v[i]; });
}
// Two roundings: where there is no instruction, a fused one would cost a call per lane.
FQ_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return quads<Floats>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
FQ_INLINE Floats maximum(Floats a, Floats b) {
  return quads<Floats>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
FQ_INLINE Floats minimum(Floats a, Floats b) {
  return quads<Floats>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
FQ_INLINE Floats bits_as_float(Ints a) {
  return quads<Floats>([&](int i) { return reinterpret_cast<QuadFloats>(a.v[i]); });
}
FQ_INLINE Floats absolute(Floats a) {
  return bits_as_float(quads<Ints>([&](int i) { return reinterpret_cast<QuadWords>(a.v[i]) & 0x7fffffffu; }));
}
// To nearest, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves the rounded integer in the low bits. Unlike a
// conversion it is defined for all numbers, if meaningless for others.
FQ_INLINE Ints round_to_int(Floats a) {
  return quads<Ints>([&](int i) { return reinterpret_cast<QuadWords>(a.v[i] + 12582912.0f) - 0x4b400000u; });
}
// `a` where x < limit is false, else 0.
FQ_INLINE Floats zero_below(Floats a, Floats x, Floats limit) {
  return quads<Floats>([&](int i) {
    return reinterpret_cast<QuadFloats>(reinterpret_cast<QuadInts>(a.v[i]) & (x.v[i] >= limit.v[i]));
  });
}
FQ_INLINE float sum_of(Floats a) {
  const QuadFloats four = (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]);
  return (four[0] + four[1]) + (four[2] + four[3]);
}
FQ_INLINE float greater(float a, float b) { return a > b ? a : b; }
FQ_INLINE float max_of(Floats a) {
  const QuadFloats low = a.v[0] > a.v[1] ? a.v[0] : a.v[1], high = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  const QuadFloats four = low > high ? low : high;
  return greater(greater(four[0], four[1]), greater(four[2], four[3]));
}
FQ_INLINE int32_t sum_of(Ints a) {
  const QuadWords four = (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]);
  return static_cast<int32_t>((four[0] + four[1]) + (four[2] + four[3]));
}
FQ_INLINE Floats gather(const float* base, const int32_t* index) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = base[index[i]];
  return load(lanes);
}
FQ_INLINE void store_bytes(int8_t* p, Ints a) {
  uint32_t lanes[16];
  store_words(lanes, a);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(lanes[i]);
}

// Scales of 16 columns: lane i has its index at nibble i / 2 of word i % 2.
FQ_INLINE Floats look_up_scales(const uint16_t* table, const uint8_t* indices) {
  uint32_t words[2];
  __builtin_memcpy(words, indices, 8);
  uint16_t halves[16];
  for (int i = 0; i < 16; ++i) halves[i] = table[words[i % 2] >> (i / 2 * 4) & 15u];
  return load_half(halves);
}

}  // namespace fq::FQ_ISA
