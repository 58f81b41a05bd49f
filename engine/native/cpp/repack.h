// From the stream of bits in which EXL2 stores a column to planes, one unit of up to 32 rows by 16 columns at a time.
// On disk the code of row k takes bits [k * b, k * b + b) of its group's words (exllamav2 0.3.2, `qdq_*.cuh`).
#pragma once

#include "matrix.h"
#include "unpack.h"

namespace fq::FQ_ISA {

// Swap the bits under `mask` with those `distance` above them.
FQ_INLINE Ints swap_bits(Ints x, Ints mask, unsigned distance) {
  const Ints differing = bit_and(bit_xor(x, shift_right(x, distance)), mask);
  return bit_xor(x, bit_xor(differing, shift_left(differing, distance)));
}

// Bits [from, from + n) of the stream `words`, at position `to` of the result; other bits are zero.
template <int kFrom, int kCount, int kTo>
FQ_INLINE Ints take(const Ints* words) {
  constexpr int kWord = kFrom / 32, kBit = kFrom % 32;
  const Ints mask = splat(static_cast<int32_t>(((1u << kCount) - 1u) << kTo));
  Ints part = move_bits(words[kWord], kBit, kTo);
  if constexpr (kBit + kCount > 32) {
    // The upper bits come from the next word; what the first shift brought in their place is zero or masked below.
    constexpr int kLower = 32 - kBit;
    const Ints lower = bit_and(part, splat(static_cast<int32_t>(((1u << kLower) - 1u) << kTo)));
    const Ints upper = move_bits(words[kWord + 1], 0, kTo + kLower);
    part = bit_or(lower, upper);
  }
  return bit_and(part, mask);
}

template <int kBits, int kRow, int kRows>
FQ_INLINE void place_code(const Ints* words, Ints* low, Ints* high) {
  if constexpr (kRow < kRows) {
    constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits);
    constexpr int kVector = kRow / 4, kByte = kRow % 4;
    low[kVector * kLow / 8] =
        bit_or(low[kVector * kLow / 8], take<kRow * kBits, kLow, 8 * kByte + kVector * kLow % 8>(words));
    high[kVector * kHigh / 8] =
        bit_or(high[kVector * kHigh / 8], take<kRow * kBits + kLow, kHigh, 8 * kByte + kVector * kHigh % 8>(words));
    place_code<kBits, kRow + 1, kRows>(words, low, high);
  }
}

// `words` words of 16 columns, `stride` bytes apart, to as many words of 64 bytes.
template <int kBits>
FQ_INLINE void repack_unit(const uint8_t* source, int64_t stride, int words, uint8_t* target) {
  if constexpr (kBits == 8) {
    for (int w = 0; w < words; ++w) store_words(target + 64 * w, load_words(source + w * stride));
  } else if constexpr (kBits == 4) {
    for (int w = 0; w < words; ++w) {  // nibbles 0..7 to 0 4 1 5 2 6 3 7
      Ints x = load_words(source + w * stride);
      x = swap_bits(x, splat(0x0000ff00), 8);
      x = swap_bits(x, splat(0x00f000f0), 4);
      store_words(target + 64 * w, x);
    }
  } else if constexpr (kBits == 2) {
    for (int w = 0; w < words; ++w) {  // a 4 x 4 transpose of pairs of bits
      Ints x = load_words(source + w * stride);
      x = swap_bits(x, splat(0x0000f0f0), 12);
      x = swap_bits(x, splat(0x00cc00cc), 6);
      store_words(target + 64 * w, x);
    }
  } else {
    constexpr int kLow = low_bits(kBits), kHigh = high_bits(kBits);
    Ints stream[kBits], low[kLow], high[kHigh];
    for (int w = 0; w < kBits; ++w) stream[w] = w < words ? load_words(source + w * stride) : splat(0);
    for (int w = 0; w < kLow; ++w) low[w] = splat(0);
    for (int w = 0; w < kHigh; ++w) high[w] = splat(0);
    place_code<kBits, 0, 32>(stream, low, high);
    const int low_words = words * kLow / kBits, high_words = words - low_words;
    for (int w = 0; w < low_words; ++w) store_words(target + 64 * w, low[w]);
    for (int w = 0; w < high_words; ++w) store_words(target + 64 * (low_words + w), high[w]);
  }
}

template <int kBits>
static void repack_rows(const uint8_t* source, int64_t stride, int words, int blocks, uint8_t* target,
                        int64_t target_stride) {
  for (int block = 0; block < blocks; ++block)
    repack_unit<kBits>(source + 64 * block, stride, words, target + block * target_stride);
}

// One unit of all columns: `words` rows of q_weight to the same words of every block of 16 columns.
static void repack(int bits, const uint8_t* source, int64_t stride, int words, int blocks, uint8_t* target,
                   int64_t target_stride) {
  switch (bits) {
    case 2: repack_rows<2>(source, stride, words, blocks, target, target_stride); break;
    case 3: repack_rows<3>(source, stride, words, blocks, target, target_stride); break;
    case 4: repack_rows<4>(source, stride, words, blocks, target, target_stride); break;
    case 5: repack_rows<5>(source, stride, words, blocks, target, target_stride); break;
    case 6: repack_rows<6>(source, stride, words, blocks, target, target_stride); break;
    default: repack_rows<8>(source, stride, words, blocks, target, target_stride); break;
  }
}

}  // namespace fq::FQ_ISA
