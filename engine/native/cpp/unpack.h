// From the planes of a unit (32 rows of 16 columns) to bytes: vector j holds the codes of rows 4j to 4j + 3.
//
// Planes, one 32-bit word per column and line: an 8-bit plane has 4 rows in a word; a 4-bit plane 8, where byte i holds
// rows i and 4 + i; a 2-bit plane 16 (i, 4 + i, 8 + i, 12 + i); a 1-bit plane 32 (i, 4 + i, ..., 28 + i). Rows of a
// plane thus come out by shifts and masks, in the order in which activations lie in memory. Widths 6, 5 and 3 are a
// 4- or 2-bit plane for the low bits, followed by a 2- or 1-bit plane for the high ones.
#pragma once

#include <stddef.h>

#include "matrix.h"

namespace fq::FQ_ISA {

constexpr int low_bits(int bits) { return bits == 8 ? 8 : bits >= 4 ? 4 : 2; }
constexpr int high_bits(int bits) { return bits - low_bits(bits); }

// Move bits that start at `from` in each byte to `to`.
FQ_INLINE Ints move_bits(Ints word, int from, int to) {
  return from >= to ? shift_right(word, static_cast<unsigned>(from - to))
                    : shift_left(word, static_cast<unsigned>(to - from));
}

template <int kBits>
FQ_INLINE void unpack(const uint8_t* planes, Ints codes[8]) {
  constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits);
  constexpr uint32_t kLowMask = (1u << kLow) - 1u, kHighMask = ((1u << kHigh) - 1u) << kLow;
  const Ints low_mask = splat(static_cast<int32_t>(0x01010101u * kLowMask));
  const Ints high_mask = splat(static_cast<int32_t>(0x01010101u * kHighMask));
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const Ints word = load_words(planes + 64 * (j * kLow / 8));
    if constexpr (kLow == 8) {
      codes[j] = word;
    } else {
      codes[j] = bit_and(shift_right(word, static_cast<unsigned>(j * kLow % 8)), low_mask);
    }
    if constexpr (kHigh > 0) {
      const Ints above = load_words(planes + 64 * (kLow + j * kHigh / 8));
      codes[j] = and_or(move_bits(above, j * kHigh % 8, kLow), high_mask, codes[j]);
    }
  }
}

// A unit of fewer than 32 rows takes fewer words; the rows that are missing read as code 0.
template <int kBits>
FQ_INLINE void unpack_part(const uint8_t* planes, int rows, Ints codes[8]) {
  constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits);
  alignas(64) uint8_t whole[64 * kBits] = {};
  const int low_words = rows * kLow / 32, high_words = rows * kHigh / 32;
  __builtin_memcpy(whole, planes, static_cast<size_t>(64 * low_words));
  __builtin_memcpy(whole + 64 * kLow, planes + 64 * low_words, static_cast<size_t>(64 * high_words));
  unpack<kBits>(whole, codes);
}

}  // namespace fq::FQ_ISA
