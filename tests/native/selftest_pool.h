// The thread pool: every item once, phases in order, results of a phase visible in the next.
#pragma once

#include <atomic>
#include <vector>

#include "../../engine/native/cpp/thread_pool.h"
#include "selftest_check.h"

namespace selftest {

// Lives on the stack of one run, as jobs of the library do: a thread that is late must not touch it.
struct CountingJob {
  std::vector<int> items;
  std::vector<std::vector<int>> marks;  // plain memory: two threads at one item would be a race
  std::atomic<int> done[fq::kMaxPhases];
  std::atomic<bool> wrong{false};

  CountingJob(Random& random, int phases) {
    for (std::atomic<int>& count : done) count = 0;
    for (int p = 0; p < phases; ++p) {
      items.push_back(random.below(4) == 0 ? random.below(2) : random.below(40));
      marks.emplace_back(static_cast<size_t>(items.back()));
    }
  }

  static void work(void* self, int phase, int item) { static_cast<CountingJob*>(self)->work(phase, item); }

  void work(int phase, int item) {
    const size_t p = static_cast<size_t>(phase);
    if (p >= items.size() || item < 0 || item >= items[p]) {
      wrong = true;
      return;
    }
    // What the phase before wrote, without synchronization of its own.
    for (size_t i = 0; p > 0 && i < marks[p - 1].size(); ++i)
      if (marks[p - 1][i] != 1) wrong = true;
    for (size_t later = p + 1; later < items.size(); ++later)
      if (done[later] != 0) wrong = true;
    ++marks[p][static_cast<size_t>(item)];
    ++done[p];
  }
};

// Threads that sleep are woken: every item waits until each thread has one.
inline void check_waking(int threads) {
  snprintf(subject, sizeof subject, "pool of %d threads, waking", threads);
  fq::Pool pool(threads);
  for (int i = 0; i < 3; ++i) {
    usleep(20000);
    std::atomic<int> missing{threads};
    const fq::Work meet = [](void* count, int, int) {
      std::atomic<int>& left = *static_cast<std::atomic<int>*>(count);
      --left;
      int waits = 0;
      while (left > 0 && waits < 10000) {
        usleep(1000);
        ++waits;
      }
      if (left > 0) left = 1000;  // gave up; stays above zero whoever comes later
    };
    pool.run(meet, &missing, &threads, 1);
    CHECK(missing == 0);
  }
}

inline void check_pool(int jobs) {
  Random random(10);
  for (int threads = 1; threads <= 4; ++threads) {
    fq::Pool pool(threads);
    CHECK(pool.threads() == threads);
    for (int i = 0; i < jobs; ++i) {
      snprintf(subject, sizeof subject, "pool of %d threads, job %d", threads, i);
      const int phases = 1 + random.below(fq::kMaxPhases);
      CountingJob job(random, phases);
      pool.run(CountingJob::work, &job, job.items.data(), phases);
      CHECK(!job.wrong);
      bool once = true;
      for (size_t p = 0; p < job.items.size(); ++p) {
        once = once && job.done[p] == job.items[p];
        for (int mark : job.marks[p]) once = once && mark == 1;
      }
      CHECK(once);
      if (i % 50 == 0) usleep(2000);  // long enough for the others to fall asleep
    }
  }
  CHECK(fq::Pool(0).threads() == 1);
  for (int threads : {2, 4}) check_waking(threads);
  // Pools that end at once, and while their threads still look for work.
  for (int i = 0; i < 50; ++i) {
    fq::Pool pool(1 + i % 4);
    const int one = 1;
    if (i % 2) pool.run([](void*, int, int) {}, nullptr, &one, 1);
  }
}

}  // namespace selftest
