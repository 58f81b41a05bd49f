#include "decoder_layer.h"

#include <math.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

namespace fq {

namespace {

constexpr int kUnitsPerItem = 32;         // of activations to round
constexpr int64_t kItemBytes = 64 << 10;  // of weights that one item goes through more than once, about
constexpr int kLeastSpan = 4, kMostSpan = 16;  // blocks of an item
constexpr int kItemsPerThread = 4;             // of a phase, at least: threads that were held up leave some to others
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

// Columns of a layer, cut into spans of blocks that one item computes, whatever parts they lie in. Weights that are read
// once, by a pass of a few rows, are read fastest in long pieces; more rows find them in the cache where these are short.
struct Spans {
  int blocks;
  int span;

  // `of_phase`: blocks of all layers in the phase.
  Spans(const Linear& l, int rows, int of_phase, const Pool& pool) : blocks(l.blocks) {
    const int64_t wanted =
        rows > kRowBlock ? kItemBytes / (64 * l.words) : of_phase / (kItemsPerThread * pool.threads());
    span = static_cast<int>(std::clamp<int64_t>(wanted, kLeastSpan, kMostSpan));
  }
  int items() const { return divided(blocks, span); }
  int first(int item) const { return item * span; }
  int last(int item) const { return std::min(blocks, (item + 1) * span); }
};

int columns(const Linear& l, int block) { return std::min(kLanes, l.out - block * kLanes); }

// Call each(part, first, last) for the parts that have some of the layer's blocks [first, last), and for which of them.
template <typename Each>
void for_parts(const Linear& l, int first, int last, Each each) {
  const Part* const end = l.parts + l.n_parts;
  const Part* part = std::partition_point(
      l.parts, end, [&](const Part& p) { return p.first_block + p.matrix.blocks <= first; });
  for (; part != end && part->first_block < last; ++part)
    each(*part, std::max(first, part->first_block), std::min(last, part->first_block + part->matrix.blocks));
}

// Rounds the rows of a pass for matrices with one permutation and the same units, of which `m` is one.
struct Rounding {
  const Matrix* m;
  Inputs x;
  const float* rows;
  int64_t stride;
  const float* norm;  // weight of the RMS norm before it, if any

  int chunks() const { return divided(x.units, kUnitsPerItem); }
  int items() const { return x.rows * chunks(); }
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

// All rounded forms of the rows of a pass that layers with these inputs need, as the items of one phase.
struct Roundings {
  std::vector<Rounding> list;
  int rows = 0;

  Roundings() = default;
  Roundings(Carver& carver, std::initializer_list<const Linear*> linears, int n, const float* source, int64_t stride,
            const float* norm)
      : rows(n) {
    for (const Linear* l : linears) {
      for (int i = 0; i < l->n_parts; ++i) {
        const Part& p = l->parts[i];
        if (p.inputs == static_cast<int>(list.size()))
          list.push_back({&p.matrix, carver.inputs(n, p.matrix.units), source, stride, norm});
      }
    }
  }
  int row_blocks() const { return divided(rows, kRowBlock); }
  int items() const {
    int sum = 0;
    for (const Rounding& rounding : list) sum += rounding.items();
    return sum;
  }
  void run(const Kernels& kernels, const Shape& shape, int item) const {
    for (const Rounding& rounding : list) {
      if (item < rounding.items()) return rounding.run(kernels, shape, item);
      item -= rounding.items();
    }
  }
};

// sums [last - first][rows of the row block][16] = the rows of `row_block` times the layer's blocks [first, last).
void multiply_blocks(const Kernels& kernels, const Linear& l, const Roundings& inputs, int row_block, int first,
                     int last, float* sums) {
  for_parts(l, first, last, [&](const Part& p, int from, int to) {
    const Inputs& x = inputs.list[p.inputs].x;
    kernels.multiply(p.matrix, x, row_block, from - p.first_block, to - from,
                     sums + (from - first) * rows_of_block(x, row_block) * kLanes);
  });
}

// Multiply the blocks of one item; `take(row, block, columns, sums)` gets each row's 16 sums.
template <typename Take>
void multiply_span(const Kernels& kernels, const Linear& l, const Roundings& inputs, const Spans& spans, int item,
                   Take take) {
  alignas(64) float sums[kMostSpan * kRowBlock * kLanes];
  const int first = spans.first(item), last = spans.last(item);
  for (int rb = 0; rb < inputs.row_blocks(); ++rb) {
    const int n = std::min(kRowBlock, inputs.rows - rb * kRowBlock);
    multiply_blocks(kernels, l, inputs, rb, first, last, sums);
    for (int block = first; block < last; ++block) {
      const int width = columns(l, block);
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
  Spans q_spans, k_spans, v_spans, o_spans, gate_spans, down_spans;
  float* mixed;     // [rows][q | k | v]
  float* attended;  // [rows][heads * head_dim]
  float* gated;     // [rows][intermediate]
  int64_t mixed_stride;

  LayerJob(const Pass& p, const Layer& l)
      : pass(p),
        layer(l),
        q_spans(l.q, p.rows, l.q.blocks + l.k.blocks + l.v.blocks, p.pool),
        k_spans(l.k, p.rows, l.q.blocks + l.k.blocks + l.v.blocks, p.pool),
        v_spans(l.v, p.rows, l.q.blocks + l.k.blocks + l.v.blocks, p.pool),
        o_spans(l.o, p.rows, l.o.blocks, p.pool),
        gate_spans(l.gate, p.rows, l.gate.blocks, p.pool),
        down_spans(l.down, p.rows, l.down.blocks, p.pool) {
    Carver carver(p.scratch);
    const Shape& s = p.shape;
    mixed_stride = static_cast<int64_t>(s.heads + 2 * s.kv_heads) * s.head_dim;
    mixed = carver.take<float>(p.rows * mixed_stride);
    attended = carver.take<float>(static_cast<int64_t>(p.rows) * s.heads * s.head_dim);
    gated = carver.take<float>(static_cast<int64_t>(p.rows) * s.intermediate);
    // What is rounded for one part of the layer is not needed in the next.
    Carver attention = carver, mlp_carver = carver, o_carver = carver, down_carver = carver;
    qkv = {attention, {&l.q, &l.k, &l.v}, p.rows, p.hidden, s.hidden, l.input_norm};
    o = {o_carver, {&l.o}, p.rows, attended, static_cast<int64_t>(s.heads) * s.head_dim, nullptr};
    mlp = {mlp_carver, {&l.gate, &l.up}, p.rows, p.hidden, s.hidden, l.post_norm};
    down = {down_carver, {&l.down}, p.rows, gated, s.intermediate, nullptr};
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
      case kO: return add_to_hidden(layer.o, o, o_spans, item);
      case kRoundMlp: return mlp.run(kernels, pass.shape, item);
      case kGateUp: return gate_and_up(item);
      case kRoundDown: return down.run(kernels, pass.shape, item);
      default: return add_to_hidden(layer.down, down, down_spans, item);
    }
  }

  void project(int item) {
    const int64_t query = static_cast<int64_t>(pass.shape.heads) * pass.shape.head_dim;
    const int64_t key = static_cast<int64_t>(pass.shape.kv_heads) * pass.shape.head_dim;
    if (item < q_spans.items()) return project(layer.q, q_spans, item, 0);
    item -= q_spans.items();
    if (item < k_spans.items()) return project(layer.k, k_spans, item, query);
    project(layer.v, v_spans, item - k_spans.items(), query + key);
  }

  void project(const Linear& l, const Spans& spans, int item, int64_t offset) {
    multiply_span(pass.kernels, l, qkv, spans, item, [&](int row, int block, int width, const float* sums) {
      std::copy(sums, sums + width, mixed + row * mixed_stride + offset + block * kLanes);
    });
  }

  void add_to_hidden(const Linear& l, const Roundings& inputs, const Spans& spans, int item) {
    multiply_span(pass.kernels, l, inputs, spans, item, [&](int row, int block, int width, const float* sums) {
      float* target = pass.hidden + static_cast<int64_t>(row) * pass.shape.hidden + block * kLanes;
      for (int i = 0; i < width; ++i) target[i] += sums[i];
    });
  }

  void gate_and_up(int item) {
    alignas(64) float gate[kMostSpan * kRowBlock * kLanes], up[kMostSpan * kRowBlock * kLanes];
    const int first = gate_spans.first(item), last = gate_spans.last(item);
    for (int rb = 0; rb < mlp.row_blocks(); ++rb) {
      const int n = std::min(kRowBlock, mlp.rows - rb * kRowBlock);
      // One matrix after the other: two streams in turns are slower to read.
      multiply_blocks(pass.kernels, layer.gate, mlp, rb, first, last, gate);
      multiply_blocks(pass.kernels, layer.up, mlp, rb, first, last, up);
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

  // Norm, if there is one, and rotation of the queries and the key of one KV head of one row; key and value go to
  // their page.
  void append(int item) {
    const Shape& s = pass.shape;
    const int row = item / s.kv_heads, head = item % s.kv_heads, shared = s.heads / s.kv_heads;
    int i = 0;
    while (row >= pass.segments[i].first_row + pass.segments[i].rows) ++i;
    float* queries = mixed + row * mixed_stride + static_cast<int64_t>(head) * shared * s.head_dim;
    float* key = mixed + row * mixed_stride + static_cast<int64_t>(s.heads + head) * s.head_dim;
    const float* value = key + static_cast<int64_t>(s.kv_heads) * s.head_dim;
    const float* cos = pass.cos + static_cast<int64_t>(row) * s.rotary_dim;
    const float* sin = pass.sin + static_cast<int64_t>(row) * s.rotary_dim;
    if (layer.query_norm) {
      for (float* query = queries; query < queries + static_cast<int64_t>(shared) * s.head_dim; query += s.head_dim)
        pass.kernels.rms_norm_row(query, layer.query_norm, query, s.head_dim, s.norm_eps);
      pass.kernels.rms_norm_row(key, layer.key_norm, key, s.head_dim, s.norm_eps);
    }
    const float query_factor = 1.0f / sqrtf(static_cast<float>(s.head_dim));
    pass.kernels.rotate_heads(queries, cos, sin, shared, s.head_dim, s.rotary_dim, query_factor);
    pass.kernels.rotate_heads(key, cos, sin, 1, s.head_dim, s.rotary_dim, 1.0f);
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

// Round, then multiply: the head, or a layer by itself.
struct LinearJob {
  const Kernels& kernels;
  const Shape& shape;
  const Linear& linear;
  Roundings inputs;
  Spans spans;
  const float* rows;
  int n_rows;
  float* out;
  bool exact;

  LinearJob(const Kernels& k, const Pool& pool, const Shape& s, const Linear& l, const float* source, int n,
            const float* norm, bool unrounded, float* target, uint8_t* scratch)
      : kernels(k),
        shape(s),
        linear(l),
        spans(l, n, l.blocks, pool),
        rows(source),
        n_rows(n),
        out(target),
        exact(unrounded) {
    Carver carver(scratch);
    if (!exact) inputs = {carver, {&l}, n, source, in(), norm};
  }

  int in() const { return linear.parts->matrix.in; }

  void run(Pool& pool) {
    const int items[2] = {inputs.items(), spans.items()};
    pool.run([](void* job, int phase, int item) { static_cast<LinearJob*>(job)->work(phase, item); }, this, items, 2);
  }

  void work(int phase, int item) {
    if (phase == 0) return inputs.run(kernels, shape, item);
    const auto take = [&](int row, int block, int width, const float* sums) {
      std::copy(sums, sums + width, out + static_cast<int64_t>(row) * linear.out + block * kLanes);
    };
    if (!exact) return multiply_span(kernels, linear, inputs, spans, item, take);
    alignas(64) float sums[kLanes];
    for_parts(linear, spans.first(item), spans.last(item), [&](const Part& p, int from, int to) {
      for (int row = 0; row < n_rows; ++row) {
        for (int block = from; block < to; ++block) {
          if (columns(linear, block) <= 0) continue;
          kernels.multiply_exact(p.matrix, rows + static_cast<int64_t>(row) * in(), block - p.first_block, sums);
          take(row, block, columns(linear, block), sums);
        }
      }
    });
  }
};

}  // namespace

int64_t rounded_bytes(int rows, int units) {
  const int64_t places = static_cast<int64_t>(rows) * units;
  return aligned(places * kUnitRows) + 2 * aligned(places * 4);
}

int64_t scratch_bytes(const Shape& s, int rows, int64_t rounded) {
  const int64_t n = rows, query = static_cast<int64_t>(s.heads) * s.head_dim;
  const int64_t key = static_cast<int64_t>(s.kv_heads) * s.head_dim;
  return aligned(n * (query + 2 * key) * 4) + aligned(n * query * 4) + aligned(n * s.intermediate * 4) + rounded;
}

void run_layer(const Pass& pass, const Layer& layer) { LayerJob(pass, layer).run(); }

void run_head(const Pass& pass, const Linear& head, const float* norm, float* logits) {
  LinearJob(pass.kernels, pass.pool, pass.shape, head, pass.hidden, pass.rows, norm, false, logits, pass.scratch)
      .run(pass.pool);
}

void run_linear(const Kernels& kernels, Pool& pool, const Linear& linear, const float* x, int rows, bool exact,
                float* out, uint8_t* scratch) {
  LinearJob(kernels, pool, Shape{}, linear, x, rows, nullptr, exact, out, scratch).run(pool);
}

}  // namespace fq
