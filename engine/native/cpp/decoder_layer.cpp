#include "decoder_layer.h"

#include <math.h>

#include <algorithm>
#include <vector>

namespace fq {

namespace {

constexpr int kUnitsPerItem = 32;         // of activations to round
constexpr int64_t kItemBytes = 64 << 10;  // of weights that one item goes through, about
constexpr int kLeastSpan = 4, kMostSpan = 16;  // blocks of an item
constexpr int kQueriesPerItem = 64;
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int divided(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Hands out pieces of the scratch memory.
class Carver {
 public:
  explicit Carver(uint8_t* base) : at_(base) {}
  template <typename T>
  T* take(int64_t items) {
    T* taken = reinterpret_cast<T*>(at_);
    at_ += aligned(items * static_cast<int64_t>(sizeof(T)));
    return taken;
  }
  Inputs inputs(int rows, int units) {
    const int64_t places = static_cast<int64_t>(rows) * units;
    return {take<int8_t>(places * kUnitRows), take<float>(places), take<int32_t>(places), units, rows};
  }

 private:
  uint8_t* at_;
};

// Columns of a matrix, cut into spans of blocks that one item computes.
struct Spans {
  int blocks;
  int span;

  explicit Spans(const Matrix& m)
      : blocks(m.blocks),
        span(static_cast<int>(std::clamp<int64_t>(kItemBytes / (64 * m.words), kLeastSpan, kMostSpan))) {}
  int items() const { return divided(blocks, span); }
  int first(int item) const { return item * span; }
  int last(int item) const { return std::min(blocks, (item + 1) * span); }
};

int row_blocks(const Inputs& x) { return divided(x.rows, kRowBlock); }

int columns(const Matrix& m, int block) { return std::min(kLanes, m.out - block * kLanes); }

// Rounds the rows of a pass for one matrix.
struct Rounding {
  const Matrix* m = nullptr;
  Inputs x{};
  const float* rows = nullptr;
  int64_t stride = 0;
  const float* norm = nullptr;  // weight of the RMS norm before it, if any

  int chunks() const { return divided(x.units, kUnitsPerItem); }
  int items() const { return m ? x.rows * chunks() : 0; }
  void run(const Kernels& kernels, const Shape& shape, int item) const {
    const int row = item / chunks(), first = item % chunks() * kUnitsPerItem;
    const float* source = rows + row * stride;
    if (norm) {  // once more in every item: that costs less than waiting for another thread to do it
      static thread_local std::vector<float> normed;
      if (normed.size() < static_cast<size_t>(shape.hidden)) normed.resize(static_cast<size_t>(shape.hidden));
      kernels.rms_norm_row(source, norm, normed.data(), shape.hidden, shape.norm_eps);
      source = normed.data();
    }
    kernels.round_units(*m, source, row, first, std::min(x.units, first + kUnitsPerItem), x);
  }
};

// Several roundings as the items of one phase.
struct Roundings {
  Rounding parts[3];
  int count = 0;

  Inputs add(Carver& carver, const Matrix& m, int n, const float* rows, int64_t stride, const float* norm) {
    parts[count] = {&m, carver.inputs(n, m.units), rows, stride, norm};
    return parts[count++].x;
  }
  int items() const {
    int sum = 0;
    for (int i = 0; i < count; ++i) sum += parts[i].items();
    return sum;
  }
  void run(const Kernels& kernels, const Shape& shape, int item) const {
    for (int i = 0; i < count; ++i) {
      if (item < parts[i].items()) return parts[i].run(kernels, shape, item);
      item -= parts[i].items();
    }
  }
};

// Multiply the blocks of one item; `take(row, block, columns, sums)` gets each row's 16 sums.
template <typename Take>
void multiply_span(const Kernels& kernels, const Matrix& m, const Inputs& x, const Spans& spans, int item, Take take) {
  alignas(64) float sums[kMostSpan * kRowBlock * kLanes];
  const int first = spans.first(item), last = spans.last(item);
  for (int rb = 0; rb < row_blocks(x); ++rb) {
    const int n = rows_of_block(x, rb);
    kernels.multiply(m, x, rb, first, last - first, sums);
    for (int block = first; block < last; ++block) {
      const int width = columns(m, block);
      for (int r = 0; r < n && width > 0; ++r)
        take(rb * kRowBlock + r, block, width, sums + ((block - first) * n + r) * kLanes);
    }
  }
}

enum LayerPhase { kRoundQkv, kQkv, kAppend, kAttend, kRoundO, kO, kRoundMlp, kGateUp, kRoundDown, kDown, kLayerPhases };

struct LayerJob {
  const Pass& pass;
  const Layer& layer;
  Roundings qkv, o, mlp, down;
  Inputs xq, xk, xv, xgate, xup;
  Spans q_spans, k_spans, v_spans, o_spans, gate_spans, down_spans;
  float* mixed;     // [rows][q | k | v]
  float* attended;  // [rows][heads * head_dim]
  float* gated;     // [rows][intermediate]
  int64_t mixed_stride;

  LayerJob(const Pass& p, const Layer& l)
      : pass(p),
        layer(l),
        q_spans(l.q),
        k_spans(l.k),
        v_spans(l.v),
        o_spans(l.o),
        gate_spans(l.gate),
        down_spans(l.down) {
    Carver carver(p.scratch);
    const Shape& s = p.shape;
    mixed_stride = static_cast<int64_t>(s.heads + 2 * s.kv_heads) * s.head_dim;
    mixed = carver.take<float>(p.rows * mixed_stride);
    attended = carver.take<float>(static_cast<int64_t>(p.rows) * s.heads * s.head_dim);
    gated = carver.take<float>(static_cast<int64_t>(p.rows) * s.intermediate);
    // What is rounded for one part of the layer is not needed in the next.
    Carver attention = carver, mlp_carver = carver, o_carver = carver, down_carver = carver;
    xq = qkv.add(attention, l.q, p.rows, p.hidden, s.hidden, l.input_norm);
    xk = l.k_shares == 0 ? xq : qkv.add(attention, l.k, p.rows, p.hidden, s.hidden, l.input_norm);
    xv = l.v_shares == 0   ? xq
         : l.v_shares == 1 ? xk
                           : qkv.add(attention, l.v, p.rows, p.hidden, s.hidden, l.input_norm);
    o.add(o_carver, l.o, p.rows, attended, static_cast<int64_t>(s.heads) * s.head_dim, nullptr);
    xgate = mlp.add(mlp_carver, l.gate, p.rows, p.hidden, s.hidden, l.post_norm);
    xup = l.up_shares == 0 ? xgate : mlp.add(mlp_carver, l.up, p.rows, p.hidden, s.hidden, l.post_norm);
    down.add(down_carver, l.down, p.rows, gated, s.intermediate, nullptr);
  }

  int rows_per_item() const { return std::max(1, kQueriesPerItem / (pass.shape.heads / pass.shape.kv_heads)); }

  int attention_items() const {
    int sum = 0;
    for (int i = 0; i < pass.n_segments; ++i) sum += divided(pass.segments[i].rows, rows_per_item());
    return sum * pass.shape.kv_heads;
  }

  void run() {
    int items[kLayerPhases];
    items[kRoundQkv] = qkv.items();
    items[kQkv] = q_spans.items() + k_spans.items() + v_spans.items();
    items[kAppend] = pass.rows * pass.shape.kv_heads;
    items[kAttend] = attention_items();
    items[kRoundO] = o.items();
    items[kO] = o_spans.items();
    items[kRoundMlp] = mlp.items();
    items[kGateUp] = gate_spans.items();
    items[kRoundDown] = down.items();
    items[kDown] = down_spans.items();
    pass.pool.run([](void* job, int phase, int item) { static_cast<LayerJob*>(job)->work(phase, item); }, this, items,
                  kLayerPhases);
  }

  void work(int phase, int item) {
    const Kernels& kernels = pass.kernels;
    switch (phase) {
      case kRoundQkv: return qkv.run(kernels, pass.shape, item);
      case kQkv: return project(item);
      case kAppend: return append(item);
      case kAttend: return attend(item);
      case kRoundO: return o.run(kernels, pass.shape, item);
      case kO: return add_to_hidden(layer.o, o.parts[0].x, o_spans, item);
      case kRoundMlp: return mlp.run(kernels, pass.shape, item);
      case kGateUp: return gate_and_up(item);
      case kRoundDown: return down.run(kernels, pass.shape, item);
      default: return add_to_hidden(layer.down, down.parts[0].x, down_spans, item);
    }
  }

  void project(int item) {
    const int64_t query = static_cast<int64_t>(pass.shape.heads) * pass.shape.head_dim;
    const int64_t key = static_cast<int64_t>(pass.shape.kv_heads) * pass.shape.head_dim;
    if (item < q_spans.items()) return project(layer.q, xq, q_spans, item, 0);
    item -= q_spans.items();
    if (item < k_spans.items()) return project(layer.k, xk, k_spans, item, query);
    project(layer.v, xv, v_spans, item - k_spans.items(), query + key);
  }

  void project(const Matrix& m, const Inputs& x, const Spans& spans, int item, int64_t offset) {
    multiply_span(pass.kernels, m, x, spans, item, [&](int row, int block, int width, const float* sums) {
      std::copy(sums, sums + width, mixed + row * mixed_stride + offset + block * kLanes);
    });
  }

  void add_to_hidden(const Matrix& m, const Inputs& x, const Spans& spans, int item) {
    multiply_span(pass.kernels, m, x, spans, item, [&](int row, int block, int width, const float* sums) {
      float* target = pass.hidden + static_cast<int64_t>(row) * pass.shape.hidden + block * kLanes;
      for (int i = 0; i < width; ++i) target[i] += sums[i];
    });
  }

  void gate_and_up(int item) {
    alignas(64) float gate[kMostSpan * kRowBlock * kLanes], up[kMostSpan * kRowBlock * kLanes];
    const int first = gate_spans.first(item), last = gate_spans.last(item);
    for (int rb = 0; rb < row_blocks(xgate); ++rb) {
      const int n = rows_of_block(xgate, rb);
      // One matrix after the other: two streams in turns are slower to read.
      pass.kernels.multiply(layer.gate, xgate, rb, first, last - first, gate);
      pass.kernels.multiply(layer.up, xup, rb, first, last - first, up);
      for (int block = first; block < last; ++block) {
        const int width = columns(layer.gate, block);
        for (int r = 0; r < n && width > 0; ++r) {
          const int place = ((block - first) * n + r) * kLanes;
          float* target = gated + static_cast<int64_t>(rb * kRowBlock + r) * pass.shape.intermediate + block * kLanes;
          pass.kernels.swiglu_row(gate + place, up + place, target, width);
        }
      }
    }
  }

  // Rotate the queries and the key of one KV head of one row, and write key and value to their page.
  void append(int item) {
    const Shape& s = pass.shape;
    const int row = item / s.kv_heads, head = item % s.kv_heads, shared = s.heads / s.kv_heads;
    int i = 0;
    while (row >= pass.segments[i].first_row + pass.segments[i].rows) ++i;
    float* queries = mixed + row * mixed_stride + static_cast<int64_t>(head) * shared * s.head_dim;
    float* key = mixed + row * mixed_stride + static_cast<int64_t>(s.heads + head) * s.head_dim;
    const float* value = key + static_cast<int64_t>(s.kv_heads) * s.head_dim;
    const float* cos = pass.cos + static_cast<int64_t>(row) * s.head_dim;
    const float* sin = pass.sin + static_cast<int64_t>(row) * s.head_dim;
    pass.kernels.rotate_heads(queries, cos, sin, shared, s.head_dim, 1.0f / sqrtf(static_cast<float>(s.head_dim)));
    pass.kernels.rotate_heads(key, cos, sin, 1, s.head_dim, 1.0f);
    pass.kernels.append(s, pass.segments[i], layer.index, head, row - pass.segments[i].first_row, key, value);
  }

  void attend(int item) {
    const Shape& s = pass.shape;
    const int head = item % s.kv_heads;
    int part = item / s.kv_heads, i = 0;
    for (; part >= divided(pass.segments[i].rows, rows_per_item()); ++i)
      part -= divided(pass.segments[i].rows, rows_per_item());
    const Segment& segment = pass.segments[i];
    const int first = part * rows_per_item(), last = std::min(segment.rows, first + rows_per_item());
    const int64_t row = segment.first_row;
    pass.kernels.attend(s, segment, layer.index, head, first, last, mixed + row * mixed_stride, mixed_stride,
                        attended + row * s.heads * s.head_dim);
  }
};

// Round, then multiply: the head, or a matrix by itself.
struct MatrixJob {
  const Kernels& kernels;
  const Shape& shape;
  const Matrix& m;
  Roundings rounding;
  Inputs x{};
  Spans spans;
  const float* rows;
  int n_rows;
  float* out;
  bool exact;

  MatrixJob(const Kernels& k, const Shape& s, const Matrix& matrix, const float* source, int n, const float* norm,
            bool unrounded, float* target, uint8_t* scratch)
      : kernels(k), shape(s), m(matrix), spans(matrix), rows(source), n_rows(n), out(target), exact(unrounded) {
    Carver carver(scratch);
    if (!exact) x = rounding.add(carver, m, n, source, m.in, norm);
  }

  void run(Pool& pool) {
    const int items[2] = {rounding.items(), spans.items()};
    pool.run([](void* job, int phase, int item) { static_cast<MatrixJob*>(job)->work(phase, item); }, this, items, 2);
  }

  void work(int phase, int item) {
    if (phase == 0) return rounding.run(kernels, shape, item);
    const auto take = [&](int row, int block, int width, const float* sums) {
      std::copy(sums, sums + width, out + static_cast<int64_t>(row) * m.out + block * kLanes);
    };
    if (!exact) return multiply_span(kernels, m, x, spans, item, take);
    alignas(64) float sums[kLanes];
    for (int row = 0; row < n_rows; ++row) {
      for (int block = spans.first(item); block < spans.last(item); ++block) {
        if (columns(m, block) <= 0) continue;
        kernels.multiply_exact(m, rows + static_cast<int64_t>(row) * m.in, block, sums);
        take(row, block, columns(m, block), sums);
      }
    }
  }
};

}  // namespace

int64_t rounded_bytes(int rows, int units) {
  const int64_t places = static_cast<int64_t>(rows) * units;
  return aligned(places * kUnitRows) + 2 * aligned(places * 4);
}

int64_t scratch_bytes(const Shape& s, int rows, int units, int wide_units) {
  const int64_t n = rows, query = static_cast<int64_t>(s.heads) * s.head_dim;
  const int64_t key = static_cast<int64_t>(s.kv_heads) * s.head_dim;
  return aligned(n * (query + 2 * key) * 4) + aligned(n * query * 4) + aligned(n * s.intermediate * 4) +
         std::max(3 * rounded_bytes(rows, units), rounded_bytes(rows, wide_units));
}

void run_layer(const Pass& pass, const Layer& layer) { LayerJob(pass, layer).run(); }

void run_head(const Pass& pass, const Matrix& head, const float* norm, float* logits) {
  MatrixJob(pass.kernels, pass.shape, head, pass.hidden, pass.rows, norm, false, logits, pass.scratch).run(pass.pool);
}

void run_matrix(const Kernels& kernels, Pool& pool, const Matrix& m, const float* x, int rows, bool exact, float* out,
                uint8_t* scratch) {
  MatrixJob(kernels, Shape{}, m, x, rows, nullptr, exact, out, scratch).run(pool);
}

}  // namespace fq
