// What one thread can read and multiply at most, for benchmarks to compare with.

#pragma once

#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

// Bytes of a register, since vectors wider than that lie in memory, and independent sums, as many as hide the latency
// of a multiply-add and leave registers for what is multiplied.
#if defined(__AVX512F__)
constexpr int kRegister = 64, kProbeSums = 12;
#elif defined(__AVX2__)
constexpr int kRegister = 32, kProbeSums = 12;
#elif defined(__ARM_NEON)
constexpr int kRegister = 16, kProbeSums = 16;
#else
constexpr int kRegister = 16, kProbeSums = 8;
#endif

using ProbeFloats = float __attribute__((vector_size(kRegister)));
using ProbeInts = uint32_t __attribute__((vector_size(kRegister)));  // sums wrap

constexpr int kProbeLanes = kRegister / 4;

// Reads all of `bytes`, a multiple of 256; the sum only keeps the compiler from leaving it out.
static int64_t probe_read(const uint8_t* data, int64_t bytes) {
  constexpr int kCount = 256 / kRegister;
  ProbeInts sums[kCount] = {};
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; j++) prefetch(data + i + 64 * j + 2048);
    for (int j = 0; j < kCount; j++) {
      ProbeInts v;
      memcpy(&v, data + i + kRegister * j, sizeof v);
      sums[j] ^= v;
    }
  }
  int32_t all = 0;
  for (int j = 0; j < kCount; j++)
    for (int lane = 0; lane < kProbeLanes; lane++) all ^= sums[j][lane];
  return all;
}

// Multiply-adds of float32; how many additions and multiplications these were. `numbers` holds a multiplier and
// what is added.
static int64_t probe_float(const float* numbers, int64_t steps, float* out) {
  const ProbeFloats a = numbers[0] - ProbeFloats{}, b = numbers[1] - ProbeFloats{};
  ProbeFloats sums[kProbeSums] = {};
  for (int64_t i = 0; i < steps; i++)
    for (int j = 0; j < kProbeSums; j++) sums[j] = sums[j] * a + b;  // contracted where the processor can
  for (int j = 0; j < kProbeSums; j++)
    for (int lane = 0; lane < kProbeLanes; lane++) *out += sums[j][lane];
  return steps * kProbeSums * kProbeLanes * 2;
}

// Products of bytes that a lane sums at once, and sum + u s for each lane: u unsigned below 128, s signed.
#if defined(__AVX512VNNI__)
constexpr int kProbeBytes = 4;
MC_INLINE ProbeInts probe_dot(ProbeInts sum, ProbeInts u, ProbeInts s) {
  asm("vpdpbusd %2,%1,%0" : "+v"(sum) : "v"(u), "v"(s));
  return sum;
}
#elif defined(__AVX2__)
constexpr int kProbeBytes = 4;
MC_INLINE ProbeInts probe_dot(ProbeInts sum, ProbeInts u, ProbeInts s) {
  const __m256i pairs = _mm256_maddubs_epi16(reinterpret_cast<__m256i>(u), reinterpret_cast<__m256i>(s));
  return sum + reinterpret_cast<ProbeInts>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int kProbeBytes = 4;
MC_INLINE ProbeInts probe_dot(ProbeInts sum, ProbeInts u, ProbeInts s) {
  return reinterpret_cast<ProbeInts>(vdotq_s32(reinterpret_cast<int32x4_t>(sum), reinterpret_cast<int8x16_t>(u),
                                               reinterpret_cast<int8x16_t>(s)));
}
#else
constexpr int kProbeBytes = 1;  // no such product: whole numbers instead
MC_INLINE ProbeInts probe_dot(ProbeInts sum, ProbeInts u, ProbeInts s) { return sum + u * s; }
#endif

// The same for products of bytes. `codes` holds 1024 bytes below 128, `numbers` 1024.
static int64_t probe_int8(const uint8_t* codes, const int8_t* numbers, int64_t steps, int32_t* out) {
  ProbeInts sums[kProbeSums] = {}, s[kProbeSums], u;
  memcpy(s, numbers, sizeof s);
  for (int64_t i = 0; i < steps; i++) {
    memcpy(&u, codes + i % (1024 / kRegister) * kRegister, sizeof u);
    for (int j = 0; j < kProbeSums; j++) sums[j] = probe_dot(sums[j], u, s[j]);
  }
  for (int j = 0; j < kProbeSums; j++)
    for (int lane = 0; lane < kProbeLanes; lane++) *out ^= sums[j][lane];
  return steps * kProbeSums * kProbeLanes * kProbeBytes * 2;
}

}  // namespace MC_ISA
}  // namespace minicpm
