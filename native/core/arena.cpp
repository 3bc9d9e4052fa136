#include "core/arena.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/guard.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace minicpm {

namespace {

constexpr size_t kLarge = 2u << 20;  // bytes of a large page
constexpr size_t kChunk = 64u << 20;

size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Zeroed memory at a multiple of 2 MiB; only what is touched takes memory.
void* map_large(size_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
  const size_t more = bytes + kLarge;
  void* start = mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  const uintptr_t first = reinterpret_cast<uintptr_t>(start);
  const uintptr_t aligned = rounded(first, kLarge);
  if (aligned > first) munmap(start, aligned - first);
  munmap(reinterpret_cast<void*>(aligned + bytes), kLarge - (aligned - first));
#if defined(MADV_HUGEPAGE)
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);  // a refusal costs speed only
#endif
  return reinterpret_cast<void*>(aligned);
#else
  void* start = std::calloc(1, bytes + 64);
  if (!start) throw std::bad_alloc();
  return start;
#endif
}

void unmap_large(void* start, size_t bytes) {
  permit(start, bytes);
#if defined(__unix__) || defined(__APPLE__)
  munmap(start, bytes);
#else
  (void)bytes;
  std::free(start);
#endif
}

}  // namespace

Arena::~Arena() {
  for (const auto& chunk : chunks_) unmap_large(chunk.start, chunk.bytes);
}

uint8_t* Arena::take(size_t bytes) {
  const size_t need = rounded(std::max<size_t>(bytes, 1), 64) + kGuard;
  if (need > left_) {
    const size_t chunk = rounded(std::max(need, kChunk), kLarge);
    chunks_.reserve(chunks_.size() + 1);
    next_ = static_cast<uint8_t*>(map_large(chunk));
    chunks_.push_back({next_, chunk});
    left_ = chunk;
  }
  uint8_t* taken = next_;
  next_ += need;
  left_ -= need;
  used_ += need;
  forbid(taken + bytes, need - bytes);
  return taken;
}

Scratch::~Scratch() {
  if (start_) unmap_large(start_, bytes_);
}

uint8_t* Scratch::take(size_t bytes) {
  if (bytes > bytes_) {
    const size_t larger = rounded(bytes + bytes / 4, kLarge);
    void* start = map_large(larger);
    if (start_) unmap_large(start_, bytes_);
    start_ = start;
    bytes_ = larger;
  }
  permit(start_, bytes);
  forbid(static_cast<uint8_t*>(start_) + bytes, bytes_ - bytes);
  return static_cast<uint8_t*>(start_);
}

}  // namespace minicpm
