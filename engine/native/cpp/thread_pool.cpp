#include "thread_pool.h"

#include <algorithm>
#include <chrono>

namespace fq {

namespace {

constexpr int kCountBits = 20;
constexpr uint64_t kCountMask = (1u << kCountBits) - 1;
constexpr uint64_t kGenerationMask = (uint64_t{1} << (64 - 2 * kCountBits)) - 1;
constexpr int kSpins = 3000;       // some tens of microseconds: the next phase is near
constexpr int kIdleSpins = 12000;  // some hundreds: the next token is, while somebody reads
constexpr int kYields = 50;
constexpr auto kNap = std::chrono::microseconds(50);

constexpr int kNothingLeft = -1;
constexpr int kOutdated = -2;

uint64_t generation_of(uint64_t word) { return word >> (2 * kCountBits); }
uint64_t limit_of(uint64_t word) { return word >> kCountBits & kCountMask; }
uint64_t count_of(uint64_t word) { return word & kCountMask; }
uint64_t word_of(uint64_t generation, int64_t limit, int64_t count) {
  return generation << (2 * kCountBits) | static_cast<uint64_t>(limit) << kCountBits | static_cast<uint64_t>(count);
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads)
    : threads_(std::max(threads, 1)), ranges_(new Word[static_cast<size_t>(threads_) * kMaxPhases]) {
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { serve(i); });
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
  // Every item of the last job was claimed and done, so nobody holds its context any more.
  for (int p = 0; p < phases; ++p) {
    done_[p].value.store(word_of(generation, items[p], 0), std::memory_order_relaxed);
    for (int t = 0; t < threads_; ++t) {
      const int64_t first = int64_t{items[p]} * t / threads_, end = int64_t{items[p]} * (t + 1) / threads_;
      range(p, t).value.store(word_of(generation, end, first), std::memory_order_relaxed);
    }
  }
  work_.store(work, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  n_phases_.store(phases, std::memory_order_relaxed);
  generation_.store(generation);
  if (asleep_.load() > 0) {
    { std::lock_guard<std::mutex> sleeping(sleep_); }
    wake_.notify_all();
  }
  work_through(generation, 0);
}

void Pool::serve(int me) {
  uint64_t last = 0;
  while (!ending_.load(std::memory_order_relaxed)) {
    last = await_job(last);
    work_through(last, me);
  }
}

uint64_t Pool::await_job(uint64_t last) {
  for (int i = 0; i < kIdleSpins; ++i) {
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

void Pool::work_through(uint64_t generation, int me) {
  const Work work = work_.load(std::memory_order_relaxed);
  void* const context = context_.load(std::memory_order_relaxed);
  const int phases = n_phases_.load(std::memory_order_relaxed);
  for (int p = 0; p < phases; ++p) {
    int item;
    uint64_t finished = 0;  // told once: a word that all threads write costs them each time
    for (; (item = claim(p, generation, me)) >= 0; ++finished) work(context, p, item);
    if (finished) done_[p].value.fetch_add(finished, std::memory_order_acq_rel);
    if (item == kOutdated) return;
    if (p + 1 == phases && me != 0) return;  // only the caller must see the end
    if (!await_phase(p, generation)) return;
  }
}

int Pool::claim(int phase, uint64_t generation, int me) {
  for (int i = 0; i < threads_; ++i) {
    std::atomic<uint64_t>& range_of_thread = range(phase, (me + i) % threads_).value;
    uint64_t word = range_of_thread.load(std::memory_order_acquire);
    while (true) {
      if (generation_of(word) != generation) return kOutdated;
      if (count_of(word) == limit_of(word)) break;
      if (range_of_thread.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        return static_cast<int>(count_of(word));
      }
    }
  }
  return kNothingLeft;
}

bool Pool::await_phase(int phase, uint64_t generation) {
  for (int i = 0;; ++i) {
    const uint64_t done = done_[phase].value.load(std::memory_order_acquire);
    if (generation_of(done) != generation) return false;
    if (count_of(done) == limit_of(done)) return true;
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
