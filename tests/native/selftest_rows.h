// RMS norm, SwiGLU and rotary embedding of rows, against double precision.
#pragma once

#include <utility>
#include <vector>

#include "../../engine/native/cpp/half.h"
#include "selftest_check.h"

namespace selftest {

inline void check_norms(const fq::Kernels& kernels) {
  Random random(4);
  for (int n : {1, 5, 16, 31, 64, 100, 127, 896, 1000}) {
    snprintf(subject, sizeof subject, "%s, RMS norm of %d", kernels.name, n);
    const Guarded<float> x = random_floats(random, n, 5.0f), weight = random_floats(random, n);
    Guarded<float> out(n);
    double squares = 0;
    for (int i = 0; i < n; ++i) squares += double{x[i]} * x[i];
    const double inverse = 1 / sqrt(squares / n + 1e-5f);
    kernels.rms_norm_row(x.data(), weight.data(), out.data(), n, 1e-5f);
    for (int i = 0; i < n; ++i) CHECK_NEAR(out[i], x[i] * inverse * weight[i], 2e-6 * fabs(x[i] * inverse * weight[i]));
  }
}

inline void check_swiglu(const fq::Kernels& kernels) {
  Random random(5);
  for (int n : {1, 7, 16, 33, 200}) {
    snprintf(subject, sizeof subject, "%s, SwiGLU of %d", kernels.name, n);
    Guarded<float> gate = random_floats(random, n, 20.0f), up = random_floats(random, n), out(n);
    const float corners[] = {100, -100, 0, 88, -88, 87, -87, 86.9f, -86.9f, 1e-10f, 1000, -1000};
    for (int i = 0; i < n && n >= 16 && i < 12; ++i) gate[i] = corners[i];
    kernels.swiglu_row(gate.data(), up.data(), out.data(), n);
    for (int i = 0; i < n; ++i) {
      const double expected = gate[i] / (1 + exp(-double{gate[i]})) * up[i];
      CHECK_NEAR(out[i], expected, 1e-6 * fabs(expected) + 1e-34);
    }
  }
}

inline void check_rotation(const fq::Kernels& kernels) {
  Random random(6);
  const std::pair<int, int> sizes[] = {{8, 8}, {24, 24}, {64, 64}, {96, 96}, {128, 128}, {128, 96}, {24, 2}, {80, 42}};
  for (const auto& [head_dim, rotary_dim] : sizes) {
    snprintf(subject, sizeof subject, "%s, rotation of %d of %d", kernels.name, rotary_dim, head_dim);
    const int heads = 3, half = rotary_dim / 2;
    const float factor = 0.3f;
    Guarded<float> x = random_floats(random, int64_t{heads} * head_dim);
    const Guarded<float> cos = random_floats(random, rotary_dim), sin = random_floats(random, rotary_dim);
    std::vector<float> before(x.data(), x.data() + x.size());
    kernels.rotate_heads(x.data(), cos.data(), sin.data(), heads, head_dim, rotary_dim, factor);
    for (int i = 0; i < heads * head_dim; ++i) {
      const int d = i % head_dim;
      const double own = before[static_cast<size_t>(i)];
      if (d >= rotary_dim) {
        CHECK_NEAR(x[i], own * factor, 1e-6 * factor);
        continue;
      }
      const double partner = before[static_cast<size_t>(d < half ? i + half : i - half)];
      CHECK_NEAR(x[i], (own * cos[d] + partner * sin[d]) * factor, 1e-6 * factor);
    }
  }
}

inline void check_rows(const fq::Kernels& kernels) {
  check_norms(kernels);
  check_swiglu(kernels);
  check_rotation(kernels);
}

// half.h, which the portable kernels and the scales rely on: all halves, and numbers around and between them.
inline void check_halves() {
  snprintf(subject, sizeof subject, "fp16");
  Random random(8);
  bool right = true;
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const uint16_t half = static_cast<uint16_t>(i);
    if ((half >> 10 & 31) == 31) continue;
    right = right && fq::half_to_float(half) == half_value(half) && fq::float_to_half(fq::half_to_float(half)) == half;
  }
  CHECK(right);
  for (int i = 0; i < 200000; ++i) {
    const uint32_t magnitude = 0x32000000u + random.next() % (0x477fe000u - 0x32000000u);  // 2^-27 to the largest half
    const uint32_t bits = random.below(3) == 0 ? magnitude & ~0xfffu : magnitude;          // many of them ties
    float value;
    memcpy(&value, &bits, 4);
    right = right && half_value(fq::float_to_half(value)) == as_half(value);
    right = right && half_value(fq::float_to_half(-value)) == -as_half(value);
  }
  CHECK(right);
  CHECK(fq::float_to_half(65519.996f) == 0x7bff && fq::float_to_half(65520.0f) == 0x7c00);
  CHECK(fq::float_to_half(-1e30f) == 0xfc00 && fq::float_to_half(INFINITY) == 0x7c00);
  CHECK(isinf(fq::half_to_float(0x7c00)) && isnan(fq::half_to_float(0x7e00)));
  CHECK(isnan(fq::half_to_float(fq::float_to_half(NAN))));
}

}  // namespace selftest
