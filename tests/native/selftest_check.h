// What the parts of the self test share: checks, random numbers, memory with a guarded end, fp16 by the book.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../engine/native/cpp/kernels.h"

namespace selftest {

inline long checks_passed = 0;

// What is tested at the moment, for the message of a check that fails.
inline char subject[256] = "";

#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      fprintf(stderr, "%s:%d: check failed [%s]: %s\n", __FILE__, __LINE__, selftest::subject, #condition); \
      exit(1);                                                                                               \
    }                                                                                                        \
    ++selftest::checks_passed;                                                                               \
  } while (0)

// |got - expected| <= tolerance; no NaN passes.
#define CHECK_NEAR(got, expected, tolerance)                                                                       \
  do {                                                                                                             \
    const double got_ = (got), expected_ = (expected), tolerance_ = (tolerance);                                   \
    if (!(fabs(got_ - expected_) <= tolerance_)) {                                                                 \
      fprintf(stderr, "%s:%d: check failed [%s]: %s = %.9g, not %.9g (+- %.3g)\n", __FILE__, __LINE__,             \
              selftest::subject, #got, got_, expected_, tolerance_);                                               \
      exit(1);                                                                                                     \
    }                                                                                                              \
    ++selftest::checks_passed;                                                                                     \
  } while (0)

// The same numbers on every machine (Marsaglia's xorshift64*).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint32_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 0x2545f4914f6cdd1dull) >> 32);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<uint32_t>(n)); }
  // In (-1, 1), denser around zero, as activations are.
  float value() {
    const float x = static_cast<float>(next() >> 8) / 8388608.0f - 1.0f;
    return x * fabsf(x);
  }

 private:
  uint64_t state_;
};

// Zeros that end where unreadable memory begins: what touches the next item crashes, in assembly as well.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t items) : items_(items) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), bytes = static_cast<size_t>(items) * sizeof(T);
    mapped_ = (bytes + page - 1) / page * page + page;
    base_ = static_cast<uint8_t*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + mapped_ - page, page, PROT_NONE) != 0) {
      perror("memory for the self test");
      exit(1);
    }
    data_ = reinterpret_cast<T*>(base_ + mapped_ - page - bytes);
  }
  ~Guarded() {
    if (base_) munmap(base_, mapped_);
  }
  Guarded(Guarded&& other) noexcept
      : items_(other.items_), mapped_(other.mapped_), base_(other.base_), data_(other.data_) {
    other.base_ = nullptr;
  }
  Guarded& operator=(Guarded&&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return items_; }
  int64_t bytes() const { return items_ * static_cast<int64_t>(sizeof(T)); }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  bool same_bits(const Guarded& other) const {
    return items_ == other.items_ && memcmp(data_, other.data_, static_cast<size_t>(bytes())) == 0;
  }

 private:
  int64_t items_;
  size_t mapped_;
  uint8_t* base_;
  T* data_;
};

inline Guarded<float> random_floats(Random& random, int64_t n, float factor = 1.0f) {
  Guarded<float> values(n);
  for (int64_t i = 0; i < n; ++i) values[i] = random.value() * factor;
  return values;
}

inline bool same_bits(const float* a, const float* b, int64_t n) {
  return memcmp(a, b, sizeof(float) * static_cast<size_t>(n)) == 0;
}

// x rounded to nearest, ties to even, at 2^exponent.
inline double rounded_at(double x, int exponent) { return ldexp(nearbyint(ldexp(x, -exponent)), exponent); }

// x rounded to a floating point number with `bits` significant bits whose smallest steps are 2^lowest.
inline double rounded(double x, int bits, int lowest) {
  if (x == 0) return x;
  const int exponent = ilogb(x) - bits + 1;
  return rounded_at(x, exponent < lowest ? lowest : exponent);
}

inline double as_half(double x) { return rounded(x, 11, -24); }
inline double as_bfloat(double x) { return rounded(x, 8, -133); }

// Decoded from the definition: sign, 5 bits of exponent, 10 of mantissa; finite numbers only.
inline double half_value(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const double size = exponent == 0 ? ldexp(mantissa, -24) : ldexp(mantissa + 1024, exponent - 25);
  return half & 0x8000 ? -size : size;
}

inline double bfloat_value(uint16_t bfloat) {
  const uint32_t bits = static_cast<uint32_t>(bfloat) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// A finite half whose exponent is in [low, high).
inline uint16_t random_half(Random& random, int low, int high) {
  return static_cast<uint16_t>((random.below(2) << 15) | ((low + random.below(high - low)) << 10) | random.below(1024));
}

}  // namespace selftest
