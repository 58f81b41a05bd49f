// Scales of a matrix, from the form on disk to the one in an arena.
#pragma once

#include "half.h"
#include "matrix.h"

namespace fq {

// q_scale [groups][columns / 8], 8 four-bit indices a word, to [blocks][groups][8 bytes]: of 16 columns, lane i at
// nibble i / 2 of word i % 2, so that one broadcast and one shift bring every lane its own. `groups` of the matrix's
// `all_groups` groups, from `first` on.
static inline void repack_scales(const uint32_t* source, int first, int groups, int all_groups, int blocks,
                                 uint8_t* target) {
  for (int block = 0; block < blocks; ++block) {
    for (int group = 0; group < groups; ++group) {
      const uint32_t* words = source + static_cast<int64_t>(group) * blocks * 2 + block * 2;
      uint64_t all = words[0] | static_cast<uint64_t>(words[1]) << 32;
      // Gather the even nibbles in the low half and the odd ones in the high half, doubling the pieces three times.
      uint64_t halves[2] = {all & 0x0f0f0f0f0f0f0f0full, all >> 4 & 0x0f0f0f0f0f0f0f0full};
      uint32_t packed[2];
      for (int h = 0; h < 2; ++h) {
        uint64_t x = halves[h];
        x = (x | x >> 4) & 0x00ff00ff00ff00ffull;
        x = (x | x >> 8) & 0x0000ffff0000ffffull;
        x = (x | x >> 16) & 0x00000000ffffffffull;
        packed[h] = static_cast<uint32_t>(x);
      }
      __builtin_memcpy(target + (static_cast<int64_t>(block) * all_groups + first + group) * 8, packed, 8);
    }
  }
}

// The 16 scales that a group can have: fp16((i + 1)^2 * fp16(largest * prescale / 256)), rounded where exllamav2 does.
static inline void scale_tables(const uint16_t* largest, int groups, float prescale, uint16_t* tables) {
  for (int group = 0; group < groups; ++group) {
    const float unit = half_to_float(float_to_half(half_to_float(largest[group]) * (prescale / 256.0f)));
    for (int i = 0; i < kLanes; ++i)
      tables[group * kLanes + i] = float_to_half(static_cast<float>((i + 1) * (i + 1)) * unit);
  }
}

}  // namespace fq
