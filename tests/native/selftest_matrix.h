// A random matrix: as EXL2 has it on disk, as plain numbers, and as the kernels take it.
//
// On disk, exllamav2 0.3.2's `q_weight`: 32-bit words [words][columns]. A group of rows takes rows * bits / 32 words of
// each column; the code of the group's row k is bits [k * bits, k * bits + bits) of them, the first word's lowest bit
// first. `q_scale` [groups][columns / 8] has eight four-bit indices a word, the first column lowest. A scale is
// (index + 1)^2 * (q_scale_max * prescale / 256), a weight (code - 2^(bits - 1)) * scale.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "../../engine/native/cpp/scales.h"
#include "selftest_check.h"

namespace selftest {

using fq::Kernels;
using fq::kLanes;
using fq::kUnitRows;

struct Groups {
  int bits;
  int rows;
  int count;
};

struct Unit {
  int first_row;
  int rows;
};

struct Plan {
  std::vector<Groups> groups;
  int out;
  bool bias = false;
  float prescale = 1.0f;
  int fixed_code = -1;  // -1: random; else all codes are the largest (1) or the smallest (0)

  int in() const {
    int sum = 0;
    for (const Groups& g : groups) sum += g.rows * g.count;
    return sum;
  }
};

inline std::vector<int32_t> random_order(Random& random, int n) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) order[static_cast<size_t>(i)] = i;
  for (int i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(random.below(i + 1))]);
  }
  return order;
}

class TestMatrix {
 public:
  int in, out, columns, groups, words;
  std::vector<int32_t> perm;
  std::vector<Unit> units;
  std::vector<fq::Run> runs;

  TestMatrix(const Plan& plan, Random& random, std::vector<int32_t> order = {})
      : in(plan.in()), out(plan.out), columns((plan.out + 31) / 32 * 32), groups(0), words(0), perm(std::move(order)) {
    if (perm.empty()) perm = random_order(random, in);
    lay_out(plan);
    fill(plan, random);
  }

  // code - zero of a packed row and column; scale of them.
  int code(int row, int column) const { return codes_[static_cast<size_t>(row) * columns + column]; }
  double scale(int row, int column) const { return scales_[static_cast<size_t>(group_of_[row]) * columns + column]; }
  double bias(int column) const { return column < out && !bias_.empty() ? half_value(bias_[column]) : 0.0; }

  // The disk's form in the arena, by the kernels under test.
  struct Packed {
    Guarded<uint8_t> codes, scales;
    Guarded<uint16_t> tables, bias;
    Guarded<int32_t> perm;
    Guarded<fq::Run> runs;
    fq::Matrix m;
  };

  Packed pack(const Kernels& kernels) const {
    const int blocks = columns / kLanes;
    Packed p{Guarded<uint8_t>(int64_t{64} * words * blocks), Guarded<uint8_t>(int64_t{8} * groups * blocks),
             Guarded<uint16_t>(int64_t{kLanes} * groups), Guarded<uint16_t>(out), Guarded<int32_t>(in),
             Guarded<fq::Run>(static_cast<int64_t>(runs.size())), {}};
    const int64_t stride = int64_t{4} * columns;
    int word = 0;
    for (const fq::Run& run : runs) {
      const int64_t target_stride = int64_t{64} * run.groups * (run.rows_per_group * run.bits / 32);
      uint8_t* target = p.codes.data() + int64_t{64} * blocks * run.first_word;
      for (int g = 0; g < run.groups; ++g) {
        for (int left = run.rows_per_group; left > 0; left -= kUnitRows) {
          const int count = (left < kUnitRows ? left : kUnitRows) * run.bits / 32;
          Guarded<uint8_t> source(count * stride);
          memcpy(source.data(), &q_weight_[static_cast<size_t>(word) * columns], static_cast<size_t>(source.bytes()));
          kernels.repack(run.bits, source.data(), stride, count, blocks, target, target_stride);
          target += int64_t{64} * count;
          word += count;
        }
      }
    }
    // In two pieces, as a loader with little memory does it.
    const int piece = (groups + 1) / 2;
    fq::repack_scales(q_scale_.data(), 0, piece, groups, blocks, p.scales.data());
    fq::repack_scales(q_scale_.data() + static_cast<size_t>(piece) * columns / 8, piece, groups - piece, groups, blocks,
                      p.scales.data());
    fq::scale_tables(q_scale_max_.data(), groups, prescale_, p.tables.data());
    memcpy(p.perm.data(), perm.data(), static_cast<size_t>(p.perm.bytes()));
    memcpy(p.runs.data(), runs.data(), static_cast<size_t>(p.runs.bytes()));
    if (!bias_.empty()) memcpy(p.bias.data(), bias_.data(), static_cast<size_t>(p.bias.bytes()));
    p.m = {p.codes.data(), p.scales.data(), p.tables.data(), p.perm.data(), bias_.empty() ? nullptr : p.bias.data(),
           p.runs.data(), nullptr, static_cast<int32_t>(runs.size()), in, out, blocks, words, groups,
           static_cast<int32_t>(units.size()), 0};
    return p;
  }

 private:
  std::vector<int> codes_;
  std::vector<double> scales_;
  std::vector<int> group_of_;
  std::vector<uint32_t> q_weight_, q_scale_;
  std::vector<uint16_t> q_scale_max_, bias_;
  float prescale_ = 1.0f;

  void lay_out(const Plan& plan) {
    int row = 0;
    for (const Groups& g : plan.groups) {
      runs.push_back({g.bits, g.rows, g.count, groups, static_cast<int32_t>(units.size()), words});
      for (int i = 0; i < g.count; ++i, ++groups) {
        for (int r = 0; r < g.rows; r += kUnitRows) units.push_back({row + r, std::min(kUnitRows, g.rows - r)});
        for (int r = 0; r < g.rows; ++r) group_of_.push_back(groups);
        row += g.rows;
        words += g.rows * g.bits / 32;
      }
    }
  }

  void fill(const Plan& plan, Random& random) {
    q_weight_.resize(static_cast<size_t>(words) * columns);
    q_scale_.resize(static_cast<size_t>(groups) * columns / 8);
    codes_.resize(static_cast<size_t>(in) * columns);
    scales_.resize(static_cast<size_t>(groups) * columns);
    prescale_ = plan.prescale;
    int row = 0, word = 0, group = 0;
    for (const Groups& g : plan.groups) {
      for (int i = 0; i < g.count; ++i, ++group) {
        fill_group(plan, g, random, row, word);
        fill_scales(random, group);
        row += g.rows;
        word += g.rows * g.bits / 32;
      }
    }
    for (int i = 0; plan.bias && i < out; ++i) bias_.push_back(random_half(random, 10, 17));
  }

  void fill_group(const Plan& plan, const Groups& g, Random& random, int row, int word) {
    for (int k = 0; k < g.rows; ++k) {
      for (int c = 0; c < columns; ++c) {
        const int largest = (1 << g.bits) - 1;
        const int code = plan.fixed_code < 0 ? random.below(largest + 1) : plan.fixed_code * largest;
        for (int b = 0; b < g.bits; ++b) {
          const int bit = k * g.bits + b;
          const uint32_t value = static_cast<uint32_t>(code >> b & 1) << (bit % 32);
          q_weight_[static_cast<size_t>(word + bit / 32) * columns + c] |= value;
        }
        codes_[static_cast<size_t>(row + k) * columns + c] = code - (1 << (g.bits - 1));
      }
    }
  }

  void fill_scales(Random& random, int group) {
    const uint16_t largest = static_cast<uint16_t>(random_half(random, 5, 16) & 0x7fff);
    q_scale_max_.push_back(largest);
    const double unit = as_half(half_value(largest) * prescale_ / 256);
    for (int c = 0; c < columns; ++c) {
      const int index = random.below(16);
      q_scale_[(static_cast<size_t>(group) * columns + c) / 8] |= static_cast<uint32_t>(index) << (c % 8 * 4);
      scales_[static_cast<size_t>(group) * columns + c] = as_half((index + 1) * (index + 1) * unit);
    }
  }
};

// Matrices of every width, group size and kind of last group.
inline std::vector<Plan> plans() {
  std::vector<Plan> all;
  const int widths[] = {2, 3, 4, 5, 6, 8};
  for (int bits : widths) {
    const int step = bits == 8 ? 4 : bits == 4 ? 8 : bits % 2 ? 32 : 16;  // rows of whole words
    all.push_back({{{bits, 32, 3}, {bits, step, 1}}, 32});
    all.push_back({{{bits, 64, 2}, {bits, 64 - step, 1}}, 40, true});
    all.push_back({{{bits, 96, 1}, {bits, 32 + step, 1}}, 8, true, 0.75f});
    all.push_back({{{bits, 128, 2}, {bits, 128 - step, 1}}, 81});
    if (step < 32) all.push_back({{{bits, step, 5}, {bits, 32 + step, 3}}, 16});  // short units in the middle
  }
  all.push_back({{{8, 32, 2}, {6, 32, 3}, {5, 32, 2}, {4, 32, 1}, {3, 32, 2}, {2, 32, 2}}, 100, true});
  all.push_back({{{6, 128, 1}, {5, 128, 2}, {3, 128, 1}, {2, 48, 1}}, 72});
  all.push_back({{{8, 64, 1}, {4, 64, 9}, {4, 24, 1}}, 48, true, 0.5f});
  all.push_back({{{5, 96, 2}, {4, 96, 2}, {2, 96, 1}, {2, 16, 1}}, 33});
  return all;
}

}  // namespace selftest
