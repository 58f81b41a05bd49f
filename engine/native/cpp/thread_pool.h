// Threads that work through the phases of a job together.
//
// A phase is a number of items; a thread claims one after the other, and the next phase begins when all are done. A
// thread that another program keeps from running delays nobody, unless it holds an item: nobody waits for threads, only
// for items. Waiting threads spin for some tens of microseconds and then sleep; a spinning thread would take the core
// from the one it waits for.
#pragma once

#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace fq {

using Work = void (*)(void* context, int phase, int item);

constexpr int kMaxPhases = 16;

class Pool {
 public:
  explicit Pool(int threads);  // the calling thread is one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Call work(context, phase, item) for each item of each phase; returns when all are done. One job at a time.
  void run(Work work, void* context, const int* items, int phases);

 private:
  // Both words carry the job's generation, so that a thread that was late by a job changes nothing.
  struct alignas(64) Phase {
    std::atomic<uint64_t> claims{0};  // generation, items, items claimed
    std::atomic<uint64_t> done{0};    // generation, items done
  };

  void serve();
  uint64_t await_job(uint64_t last);
  bool work_through(uint64_t generation, bool owner);
  int claim(Phase& phase, uint64_t generation);
  bool await_phase(Phase& phase, uint64_t generation);

  std::mutex jobs_;  // held by the caller whose job runs
  Phase phases_[kMaxPhases];
  alignas(64) std::atomic<uint64_t> generation_{0};
  std::atomic<Work> work_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int> n_phases_{0};
  std::atomic<int> asleep_{0};
  std::atomic<bool> ending_{false};
  std::mutex sleep_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace fq
