#include "thread_pool.h"

#include <chrono>

namespace fq {

namespace {

constexpr int kCountBits = 20;
constexpr uint64_t kCountMask = (1u << kCountBits) - 1;
constexpr uint64_t kGenerationMask = (uint64_t{1} << (64 - 2 * kCountBits)) - 1;
constexpr int kSpins = 3000;  // some tens of microseconds
constexpr int kYields = 50;
constexpr auto kNap = std::chrono::microseconds(50);

constexpr int kNothingLeft = -1;
constexpr int kOutdated = -2;

uint64_t generation_of(uint64_t word) { return word >> (2 * kCountBits); }
uint64_t word_of(uint64_t generation) { return (generation & kGenerationMask) << (2 * kCountBits); }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(sleep_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run(Work work, void* context, const int* items, int phases) {
  std::lock_guard<std::mutex> lock(jobs_);
  const uint64_t generation = (generation_.load(std::memory_order_relaxed) + 1) & kGenerationMask;
  // The words first: from here on nothing of the last job can be claimed, so its context may be forgotten.
  for (int p = 0; p < phases; ++p) {
    phases_[p].done.store(word_of(generation));
    phases_[p].claims.store(word_of(generation) | static_cast<uint64_t>(items[p]) << kCountBits);
  }
  work_.store(work, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  n_phases_.store(phases, std::memory_order_relaxed);
  generation_.store(generation);
  if (asleep_.load() > 0) {
    { std::lock_guard<std::mutex> sleeping(sleep_); }
    wake_.notify_all();
  }
  work_through(generation, true);
}

void Pool::serve() {
  uint64_t last = 0;
  while (!ending_.load(std::memory_order_relaxed)) {
    last = await_job(last);
    work_through(last, false);
  }
}

uint64_t Pool::await_job(uint64_t last) {
  for (int i = 0; i < kSpins; ++i) {
    const uint64_t now = generation_.load();
    if (now != last || ending_.load(std::memory_order_relaxed)) return now;
    pause();
  }
  std::unique_lock<std::mutex> lock(sleep_);
  ++asleep_;
  wake_.wait(lock, [&] { return generation_.load() != last || ending_.load(); });
  --asleep_;
  return generation_.load();
}

bool Pool::work_through(uint64_t generation, bool owner) {
  const Work work = work_.load(std::memory_order_relaxed);
  void* const context = context_.load(std::memory_order_relaxed);
  const int phases = n_phases_.load(std::memory_order_relaxed);
  for (int p = 0; p < phases; ++p) {
    int item;
    while ((item = claim(phases_[p], generation)) >= 0) {
      work(context, p, item);
      phases_[p].done.fetch_add(1, std::memory_order_release);
    }
    if (item == kOutdated) return false;
    if (p + 1 == phases && !owner) return true;
    if (!await_phase(phases_[p], generation)) return false;
  }
  return true;
}

int Pool::claim(Phase& phase, uint64_t generation) {
  uint64_t word = phase.claims.load(std::memory_order_acquire);
  while (true) {
    if (generation_of(word) != generation) return kOutdated;
    const uint64_t next = word & kCountMask, total = word >> kCountBits & kCountMask;
    if (next == total) return kNothingLeft;
    if (phase.claims.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      return static_cast<int>(next);
    }
  }
}

bool Pool::await_phase(Phase& phase, uint64_t generation) {
  for (int i = 0;; ++i) {
    const uint64_t claims = phase.claims.load(std::memory_order_acquire);
    const uint64_t done = phase.done.load(std::memory_order_acquire);
    if (generation_of(claims) != generation || generation_of(done) != generation) return false;
    if ((done & kCountMask) == (claims >> kCountBits & kCountMask)) return true;
    if (i < kSpins) {
      pause();
    } else if (i < kSpins + kYields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kNap);
    }
  }
}

}  // namespace fq
