// Cuts a scratch buffer into arrays. Measure first with a frame over nothing, then cut the same way.

#pragma once

#include <cstddef>
#include <cstdint>

#include "core/guard.hpp"

namespace minicpm {

class Frame {
 public:
  explicit Frame(uint8_t* start = nullptr) : start_(start) {}

  template <class T>
  T* take(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T), all = (bytes + 63) / 64 * 64 + kGuard;
    uint8_t* taken = start_ ? start_ + used_ : nullptr;
    if (taken) permit(taken, bytes), forbid(taken + bytes, all - bytes);
    used_ += all;
    return reinterpret_cast<T*>(taken);
  }

  size_t used() const { return used_; }

 private:
  uint8_t* start_;
  size_t used_ = 0;
};

}  // namespace minicpm
