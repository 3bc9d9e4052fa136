// A few threads that stay, and barriers between the stages of one job.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace minicpm {

class Pool;

// What one thread of a running job knows: its number, how many there are, and where they meet.
class Team {
 public:
  Team(Pool& pool, int index, int count) : index(index), count(count), pool_(pool) {}

  // Returns once every thread of the job has come here.
  void barrier();

  // This thread's part [first, last) of `n` items, contiguous and as even as can be.
  struct Range {
    int64_t first, last;
  };
  Range share(int64_t n) const { return {n * index / count, n * (index + 1) / count}; }

  const int index, count;

 private:
  Pool& pool_;
};

// The caller of `run` is thread 0; the others wait for work, first in a short loop, then asleep.
//
// One job runs at a time; a second caller waits. Workers block all signals, so Ctrl-C reaches the caller. After a
// fork the child's first job makes threads of its own.
class Pool {
 public:
  using Job = void (*)(Team&, void*);

  // `pin` binds each worker to one of the processors this process may use.
  Pool(int threads, bool pin);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  template <class F>
  void run(F&& job) {
    run([](Team& team, void* f) { (*static_cast<std::remove_reference_t<F>*>(f))(team); }, &job);
  }

 private:
  friend class Team;

  void run(Job job, void* argument);
  void start();
  void work(int index, uint32_t seen);
  void arrive();

  const int threads_;
  const bool pin_;
  std::mutex callers_;
  std::vector<std::thread> workers_;
  int64_t owner_ = 0;  // the process that the workers belong to

  Job job_ = nullptr;
  void* argument_ = nullptr;
  alignas(64) std::atomic<uint32_t> number_{0};  // of the job that is running or was last
  alignas(64) std::atomic<int> arrived_{0};      // at the barrier
  alignas(64) std::atomic<uint32_t> phase_{0};   // barriers passed
  std::mutex sleeping_;
  std::condition_variable wake_;
  int asleep_ = 0;
  std::atomic<bool> stopping_{false};
};

// Processors this process may use, one per physical core where the system tells; never empty.
std::vector<int> physical_cores();

}  // namespace minicpm
