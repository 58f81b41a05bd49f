// The C ABI. Every function is called from one thread at a time; pointers are valid during the call.
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <memory>

#include "decoder_layer.h"
#include "kernels.h"
#include "planes.h"
#include "scales.h"
#include "thread_pool.h"

#define FQ_API extern "C" __attribute__((visibility("default")))

namespace fq {

namespace {

constexpr int kAbiVersion = 5;

// Best first.
const Kernels* const kSets[] = {
#if defined(__x86_64__)
    &kAvx512VbmiKernels, &kAvx512Kernels, &kAvx2Kernels,
#elif defined(__aarch64__)
    &kNeonKernels,
#endif
    &kPortableKernels,
};

bool runs_here(const Kernels* set) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (set == &kAvx512VbmiKernels) {
    return runs_here(&kAvx512Kernels) && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
  }
  if (set == &kAvx512Kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
  }
  if (set == &kAvx2Kernels) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
#elif defined(__aarch64__)
  if (set == &kNeonKernels) return neon_dot_products();
#endif
  return set == &kPortableKernels;
}

const Kernels* best_set() {
  for (const Kernels* set : kSets)
    if (runs_here(set)) return set;
  return &kPortableKernels;
}

const Kernels* chosen = best_set();
std::unique_ptr<Pool> pool;

Pool& threads() {
  if (!pool) pool = std::make_unique<Pool>(1);
  return *pool;
}

template <typename Each>
void for_each(int items, Each each) {
  threads().run([](void* f, int, int item) { (*static_cast<Each*>(f))(item); }, &each, &items, 1);
}

}  // namespace

}  // namespace fq

using namespace fq;

FQ_API int fq_abi_version() { return kAbiVersion; }

// Name of the i-th instruction set that this machine runs, best first; null behind the last.
FQ_API const char* fq_kernels(int i) {
  for (const Kernels* set : kSets) {
    if (runs_here(set) && i-- == 0) return set->name;
  }
  return nullptr;
}

FQ_API const char* fq_chosen_kernels() { return chosen->name; }

// 0 when `name` is now in use, -1 when this machine has no such set.
FQ_API int fq_choose_kernels(const char* name) {
  for (const Kernels* set : kSets) {
    if (runs_here(set) && strcmp(set->name, name) == 0) {
      chosen = set;
      return 0;
    }
  }
  return -1;
}

FQ_API void fq_set_threads(int count) {
  if (pool && pool->threads() == count) return;
  pool.reset();
  pool = std::make_unique<Pool>(count);
}

FQ_API int fq_threads() { return threads().threads(); }

// --- layout of matrices

// `units` units of `bits` x 32 rows and all columns: `source` holds their rows of q_weight, `words` of them per unit.
FQ_API void fq_repack_codes(int bits, const uint8_t* source, int columns, int words, int units, uint8_t* target,
                            int64_t target_stride) {
  const int64_t stride = static_cast<int64_t>(columns) * 4;
  for (int unit = 0; unit < units; ++unit) {
    chosen->repack(bits, source + unit * words * stride, stride, words, columns / kLanes,
                   target + static_cast<int64_t>(unit) * words * 64, target_stride);
  }
}

// `groups` rows of q_scale, from `first` on, of a matrix that has `all_groups`.
FQ_API void fq_repack_scales(const uint32_t* source, int first, int groups, int all_groups, int columns,
                             uint8_t* target) {
  repack_scales(source, first, groups, all_groups, columns / kLanes, target);
}

FQ_API void fq_scale_tables(const uint16_t* largest, int groups, float prescale, uint16_t* tables) {
  scale_tables(largest, groups, prescale, tables);
}

// The inverse of a permutation of n numbers. 0, or -1 if `source` is none.
FQ_API int fq_invert_permutation(const int32_t* source, int n, int32_t* target) {
  for (int i = 0; i < n; ++i) target[i] = -1;
  for (int i = 0; i < n; ++i) {
    if (source[i] < 0 || source[i] >= n || target[source[i]] >= 0) return -1;
    target[source[i]] = i;
  }
  return 0;
}

// Columns of a plane, see `place_plane`.
FQ_API void fq_place_plane(const uint32_t* source, int in, int64_t first, int count, int zeros, uint64_t* plane) {
  place_plane(source, in, first, count, zeros, plane);
}

FQ_API void fq_table_scales(const uint16_t* tables, int64_t columns, int entries, float* scales) {
  table_scales(tables, columns, entries, scales);
}

// Blocks [first, last) of 16 columns, of EXL2 without residuals, as out [in][stride]; type 0 fp32, 1 fp16, 2 bf16.
FQ_API void fq_dequantize(const Matrix* m, int first, int last, int type, uint8_t* out, int64_t stride) {
  const int item = type == 0 ? 4 : 2;
  for_each(last - first, [&](int i) {
    chosen->dequantize_block(*m, first + i, type, out + static_cast<int64_t>(i) * kLanes * item, stride);
  });
}

// --- computing

FQ_API int64_t fq_scratch_bytes(const Shape* shape, int rows, int64_t rounded) {
  return scratch_bytes(*shape, rows, rounded);
}

FQ_API int64_t fq_rounded_bytes(int rows, int units) { return rounded_bytes(rows, units); }

FQ_API void fq_layer(const Shape* shape, const Layer* layer, const Segment* segments, int n_segments, int rows,
                     float* hidden, const float* cos, const float* sin, uint8_t* scratch) {
  run_layer({*chosen, threads(), *shape, rows, hidden, cos, sin, segments, n_segments, scratch}, *layer);
}

FQ_API void fq_head(const Shape* shape, const Linear* head, const float* norm, int rows, float* hidden, float* logits,
                    uint8_t* scratch) {
  run_head({*chosen, threads(), *shape, rows, hidden, nullptr, nullptr, nullptr, 0, scratch}, *head, norm, logits);
}

FQ_API void fq_linear(const Linear* linear, const float* x, int rows, int exact, float* out, uint8_t* scratch) {
  run_linear(*chosen, threads(), *linear, x, rows, exact != 0, out, scratch);
}

// --- the parts of a layer, each by itself

FQ_API void fq_rms_norm(const float* x, const float* weight, int rows, int n, float eps, float* out) {
  for (int64_t r = 0; r < rows; ++r) chosen->rms_norm_row(x + r * n, weight, out + r * n, n, eps);
}

FQ_API void fq_swiglu(const float* gate, const float* up, int rows, int n, float* out) {
  for (int64_t r = 0; r < rows; ++r) chosen->swiglu_row(gate + r * n, up + r * n, out + r * n, n);
}

FQ_API void fq_rotate(float* x, const float* cos, const float* sin, int rows, int heads, int head_dim,
                      int rotary_dim) {
  for (int64_t r = 0; r < rows; ++r)
    chosen->rotate_heads(x + r * heads * head_dim, cos + r * rotary_dim, sin + r * rotary_dim, heads, head_dim,
                         rotary_dim, 1.0f);
}

// Append keys and values [rows][kv_heads][head_dim] of one segment, then attend: queries [rows][heads][head_dim],
// divided by sqrt(head_dim) already.
FQ_API void fq_attention(const Shape* shape, const Segment* segment, int layer, const float* queries, const float* keys,
                         const float* values, float* out) {
  for (int row = 0; row < segment->rows; ++row) {
    for (int head = 0; head < shape->kv_heads; ++head) {
      const int64_t place = (static_cast<int64_t>(row) * shape->kv_heads + head) * shape->head_dim;
      chosen->append(*shape, *segment, layer, head, row, keys + place, values + place);
    }
  }
  const int64_t stride = static_cast<int64_t>(shape->heads) * shape->head_dim;
  for_each(shape->kv_heads, [&](int head) {
    chosen->attend(*shape, *segment, layer, head, 0, segment->rows, queries, stride, out);
  });
}

// --- measuring

// Read `bytes` bytes with all threads; returns a sum of them, so that nothing is left out.
FQ_API uint64_t fq_read(const uint64_t* memory, int64_t bytes) {
  constexpr int64_t kPiece = 1 << 17;  // of 64-bit words
  const int64_t words = bytes / 8;
  std::atomic<uint64_t> total{0};
  for_each(static_cast<int>((words + kPiece - 1) / kPiece), [&](int i) {
    const uint64_t* at = memory + i * kPiece;
    const int64_t n = words - i * kPiece < kPiece ? words - i * kPiece : kPiece;
    uint64_t sums[32] = {};
    int64_t k = 0;
    for (; k + 32 <= n; k += 32)
      for (int j = 0; j < 32; ++j) sums[j] += at[k + j];
    uint64_t sum = 0;
    for (; k < n; ++k) sum += at[k];
    for (uint64_t part : sums) sum += part;
    total += sum;
  });
  return total;
}
