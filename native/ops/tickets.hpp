// Items handed out one by one to the threads of a team, whichever is free.

#pragma once

#include <atomic>
#include <cstdint>
#include <new>

#include "core/pool.hpp"
#include "ops/frame.hpp"

namespace minicpm {

class Tickets {
 public:
  Tickets(Frame& frame, int threads)
      : next_(frame.take<std::atomic<int64_t>>(1)), base_(frame.take<int64_t>(threads * kApart)) {
    if (!next_) return;
    new (next_) std::atomic<int64_t>(0);
    for (int i = 0; i < threads; i++) base_[i * kApart] = 0;
  }

  // Calls `work(item)` for items of [0, count) until none is left. Every thread takes part, and all of them meet at a
  // barrier before the next round.
  template <class Work>
  void share(Team& team, int64_t count, Work&& work) const {
    int64_t& base = base_[team.index * kApart];
    for (;;) {
      const int64_t item = next_->fetch_add(1, std::memory_order_relaxed) - base;
      if (item >= count) break;
      work(item);
    }
    base += count + team.count;  // each thread has asked once too often
  }

 private:
  static constexpr int kApart = 8;  // a cache line for each thread

  std::atomic<int64_t>* next_;
  int64_t* base_;
};

}  // namespace minicpm
