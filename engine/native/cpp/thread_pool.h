// Threads that work through the phases of a job together.
//
// A phase is a number of items, of which every thread has a range of its own; one that is done with its range goes on
// with those of the others, and the next phase begins when all items are done. Ranges, because two threads that read
// neighbouring memory in turns get a tenth less of it per second than two that read far from each other. A thread that
// another program keeps from running delays nobody, unless it holds an item: nobody waits for threads, only for items.
// Waiting threads spin for some tens of microseconds (between jobs some hundreds) and then sleep; a thread that went on
// spinning would take the core from the one it waits for.
#pragma once

#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fq {

using Work = void (*)(void* context, int phase, int item);

constexpr int kMaxPhases = 16;

class Pool {
 public:
  explicit Pool(int threads);  // at least 1: the calling thread is one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Call work(context, phase, item) for each item of each phase; returns when all are done. One job at a time.
  void run(Work work, void* context, const int* items, int phases);

 private:
  // Generation of the job, a limit and a count. With the generation in it, a thread that was late by a job changes
  // nothing.
  struct alignas(64) Word {
    std::atomic<uint64_t> value{0};
  };

  void serve(int me);
  uint64_t await_job(uint64_t last);
  void work_through(uint64_t generation, int me);
  int claim(int phase, uint64_t generation, int me);
  bool await_phase(int phase, uint64_t generation);
  Word& range(int phase, int thread) { return ranges_[phase * threads_ + thread]; }

  const int threads_;
  std::mutex jobs_;  // held by the caller whose job runs
  std::unique_ptr<Word[]> ranges_;  // [phases][threads]: end of the range, next item
  Word done_[kMaxPhases];           // items of the phase, items done
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
