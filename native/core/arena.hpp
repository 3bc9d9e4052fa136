// Memory for weights: large pages where the system has them, given back all at once.

#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace minicpm {

class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // `bytes` zeroed bytes at a multiple of 64. Throws std::bad_alloc.
  uint8_t* take(size_t bytes);

  // Bytes handed out.
  size_t used() const { return used_; }

 private:
  struct Chunk {
    void* start;
    size_t bytes;
  };
  std::vector<Chunk> chunks_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
  size_t used_ = 0;
};

// A buffer that grows and never shrinks; what it held is lost when it grows. One operator uses it at a time.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Held by an operator from before it takes memory until it has done, so that callers on several threads take turns.
  std::unique_lock<std::mutex> hold() { return std::unique_lock<std::mutex>(users_); }

  // At least `bytes` bytes at a multiple of 64, not initialised. Throws std::bad_alloc.
  uint8_t* take(size_t bytes);

  size_t bytes() const { return bytes_; }

 private:
  std::mutex users_;
  void* start_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace minicpm
