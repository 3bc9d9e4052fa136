// Bytes that nobody may touch. The address sanitizer sees only what malloc returns; memory that is cut up here has to
// tell it. Without the sanitizer nothing is guarded.

#pragma once

#include <cstddef>

#if defined(MINICPM_SANITIZE)
#include <sanitizer/asan_interface.h>
#endif

namespace minicpm {

#if defined(MINICPM_SANITIZE)
constexpr size_t kGuard = 64;  // bytes between neighbours
inline void forbid(const void* start, size_t bytes) { __asan_poison_memory_region(start, bytes); }
inline void permit(const void* start, size_t bytes) { __asan_unpoison_memory_region(start, bytes); }
#else
constexpr size_t kGuard = 0;
inline void forbid(const void*, size_t) {}
inline void permit(const void*, size_t) {}
#endif

}  // namespace minicpm
