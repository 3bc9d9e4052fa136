// Cuts a scratch buffer into arrays. Measure first with a frame over nothing, then cut the same way.

#pragma once

#include <cstddef>
#include <cstdint>

namespace minicpm {

class Frame {
 public:
  explicit Frame(uint8_t* start = nullptr) : start_(start) {}

  template <class T>
  T* take(int64_t count) {
    T* taken = start_ ? reinterpret_cast<T*>(start_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return taken;
  }

  size_t used() const { return used_; }

 private:
  uint8_t* start_;
  size_t used_ = 0;
};

}  // namespace minicpm
