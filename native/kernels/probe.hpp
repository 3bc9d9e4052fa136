// What one thread can read and multiply at most, for benchmarks to compare with.

#pragma once

#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

// Independent sums, as many as hide the latency of a multiply-add and fit the registers.
#if defined(__AVX512F__)
constexpr int kProbeSums = 12;
#elif defined(__AVX2__) || defined(__ARM_NEON)
constexpr int kProbeSums = 5;
#else
constexpr int kProbeSums = 2;
#endif

// Reads all of `bytes`, a multiple of 256; the sum only keeps the compiler from leaving it out.
static int64_t probe_read(const uint8_t* data, int64_t bytes) {
  u32x16 sums[4] = {};
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; j++) {
      u32x16 v;
      memcpy(&v, data + i + 64 * j, sizeof v);
      prefetch(data + i + 64 * j + 2048);
      sums[j] += v;
    }
  }
  const u32x16 all = sums[0] + sums[1] + sums[2] + sums[3];
  return static_cast<int64_t>(all[0] ^ all[5] ^ all[15]);
}

// Multiply-adds of float32; how many additions and multiplications these were. `numbers` holds a multiplier and
// what is added.
static int64_t probe_float(const float* numbers, int64_t steps, float* out) {
  const f32x16 a = set(numbers[0]), b = set(numbers[1]);
  f32x16 sums[kProbeSums] = {};
  for (int64_t i = 0; i < steps; i++)
    for (int j = 0; j < kProbeSums; j++) sums[j] = fma(sums[j], a, b);
  for (int j = 0; j < kProbeSums; j++) *out += sum(sums[j]);
  return steps * kProbeSums * kLanes * 2;
}

// The same for products of bytes. `codes` holds 1024 bytes below 128, `numbers` 64.
static int64_t probe_int8(const uint8_t* codes, const int8_t* numbers, int64_t steps, int32_t* out) {
  i32x16 sums[kProbeSums] = {};
  for (int64_t i = 0; i < steps; i++) {
    const u8x64 u = load_bytes(codes + i % 16 * 64);
    for (int j = 0; j < kProbeSums; j++) sums[j] = dot(sums[j], u, load_quad(numbers + 4 * j));
  }
  for (int j = 0; j < kProbeSums; j++) *out ^= sums[j][0] ^ sums[j][9];
  return steps * kProbeSums * 4 * kLanes * 2;
}

}  // namespace MC_ISA
}  // namespace minicpm
