// Sixteen lanes at a time, on whatever the compiler was told it may use.
//
// The types are the compiler's own vectors of 64 bytes, which it splits where registers are narrower, so kernels
// are written once. Where an instruction set has something better than the compiler finds, it is named here.
//
// Included by one file per instruction set, inside the namespace MC_ISA, so that no function compiled for a newer
// processor is ever linked into code for an older one. For the same reason nothing here uses the standard library.

#pragma once

#ifndef MC_ISA
#error "define MC_ISA, the namespace of this instruction set, before including simd.hpp"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define MC_INLINE static inline __attribute__((always_inline))

namespace minicpm {
namespace MC_ISA {

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using u32x16 = uint32_t __attribute__((vector_size(64)));
using u16x16 = uint16_t __attribute__((vector_size(32)));
using u8x64 = uint8_t __attribute__((vector_size(64)));
using i8x64 = int8_t __attribute__((vector_size(64)));
using u16x32 = uint16_t __attribute__((vector_size(64)));

constexpr int kLanes = 16;

// Rows of a tile that fit the registers, next to two blocks of sixteen outputs.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#elif defined(__ARM_NEON)
constexpr int kTileRows = 3;
#else
constexpr int kTileRows = 2;
#endif

// ---- float32 ----

MC_INLINE f32x16 set(float value) { return value - f32x16{}; }

MC_INLINE f32x16 load(const float* p) {
  f32x16 v;
  memcpy(&v, p, sizeof v);
  return v;
}

MC_INLINE void store(float* p, f32x16 v) { memcpy(p, &v, sizeof v); }

MC_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#else
  return a * b + c;  // contracted where the processor can
#endif
}

MC_INLINE f32x16 max(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

MC_INLINE f32x16 min(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

MC_INLINE f32x16 abs(f32x16 a) { return max(a, -a); }

MC_INLINE float sum(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  float s[16], t = 0;
  memcpy(s, &v, sizeof s);
  for (int step = 8; step; step /= 2)
    for (int i = 0; i < step; i++) s[i] += s[i + step];
  t = s[0];
  return t;
#endif
}

MC_INLINE float largest(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(v);
#else
  float s[16];
  memcpy(s, &v, sizeof s);
  for (int step = 8; step; step /= 2)
    for (int i = 0; i < step; i++) s[i] = s[i] > s[i + step] ? s[i] : s[i + step];
  return s[0];
#endif
}

// The first `count` lanes; the others are `rest`.
MC_INLINE f32x16 load_some(const float* p, int count, float rest) {
  float s[16];
  for (int i = 0; i < 16; i++) s[i] = i < count ? p[i] : rest;
  return load(s);
}

MC_INLINE void store_some(float* p, f32x16 v, int count) {
  float s[16];
  store(s, v);
  for (int i = 0; i < count; i++) p[i] = s[i];
}

// To the nearest integer, ties to even, for |v| < 2^22.
MC_INLINE f32x16 round_even(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const f32x16 magic = set(12582912.0f);  // 1.5 * 2^23: what is added here has no room for a fraction
  f32x16 shifted = v + magic;
#if defined(__GNUC__)
  asm("" : "+m"(shifted));  // or the two sums could be folded into nothing
#endif
  return shifted - magic;
#endif
}

MC_INLINE i32x16 to_int(f32x16 v) { return __builtin_convertvector(v, i32x16); }
MC_INLINE f32x16 to_float(i32x16 v) { return __builtin_convertvector(v, f32x16); }

// e^v with a relative error below 3e-7; 0 below -87, and no more than e^88 above.
MC_INLINE f32x16 exp(f32x16 v) {
  v = min(max(v, set(-87.3f)), set(88.0f));
  const f32x16 t = v * set(1.44269504088896341f);
  const f32x16 n = round_even(t);
  // v - n ln 2, in two parts so that nothing is lost
  f32x16 r = fma(n, set(-0.693359375f), v);
  r = fma(n, set(2.12194440e-4f), r);
  f32x16 p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = fma(p, r * r, r + set(1.0f));
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);
#else
  const i32x16 bits = (to_int(n) + 127) << 23;
  f32x16 power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
#endif
}

MC_INLINE f32x16 sigmoid(f32x16 v) { return set(1.0f) / (set(1.0f) + exp(-v)); }
MC_INLINE f32x16 silu(f32x16 v) { return v / (set(1.0f) + exp(-v)); }

// ---- bfloat16 ----

MC_INLINE f32x16 as_float(u32x16 bits) {
  f32x16 v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

MC_INLINE u32x16 as_bits(f32x16 v) {
  u32x16 bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

MC_INLINE f32x16 load_bf16(const uint16_t* p) {
  u16x16 half;
  memcpy(&half, p, sizeof half);
#if defined(__AVX512F__)  // GCC 12 would widen it in two halves
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(half)), 16));
#else
  return as_float(__builtin_convertvector(half, u32x16) << 16);
#endif
}

// Rounded to nearest, ties to even; NaN stays NaN.
MC_INLINE u16x16 to_bf16(f32x16 v) {
  const u32x16 bits = as_bits(v);
  const u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const u32x16 quiet = (bits >> 16) | 0x40;
  const u32x16 picked = (v == v) ? rounded : quiet;
#if defined(__AVX512F__)
  return reinterpret_cast<u16x16>(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(picked)));
#else
  return __builtin_convertvector(picked, u16x16);
#endif
}

MC_INLINE void store_bf16(uint16_t* p, f32x16 v) {
  const u16x16 half = to_bf16(v);
  memcpy(p, &half, sizeof half);
}

MC_INLINE f32x16 rounded_to_bf16(f32x16 v) {
  return as_float(__builtin_convertvector(to_bf16(v), u32x16) << 16);
}

// Thirty-two bfloat16 as sixteen pairs: the first and the second of each.
struct Pairs {
  f32x16 first, second;
};

MC_INLINE Pairs load_pairs(const uint16_t* p) {
  u32x16 both;
  memcpy(&both, p, sizeof both);
  return {as_float(both << 16), as_float(both & 0xffff0000u)};
}

MC_INLINE float bf16_to_float(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

MC_INLINE uint16_t float_to_bf16(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  if (v != v) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// ---- float16, for scales ----

MC_INLINE f32x16 load_f16(const uint16_t* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#else
  u16x16 half;
  memcpy(&half, p, sizeof half);
  const u32x16 h = __builtin_convertvector(half, u32x16);
  // The exponent is moved by multiplying, which also makes subnormal numbers right.
  const f32x16 magnitude = as_float((h & 0x7fff) << 13) * set(5.192296858534828e33f);  // 2^112
  return as_float(as_bits(magnitude) | ((h & 0x8000) << 16));
#endif
}

MC_INLINE float f16_to_float(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  const uint32_t bits = (half & 0x7fffu) << 13;
  float magnitude;
  memcpy(&magnitude, &bits, sizeof magnitude);
  magnitude *= 5.192296858534828e33f;  // 2^112, as in load_f16
  return half & 0x8000 ? -magnitude : magnitude;
#endif
}

// ---- bytes and products of bytes ----

MC_INLINE u8x64 load_bytes(const uint8_t* p) {
  u8x64 v;
  memcpy(&v, p, sizeof v);
  return v;
}

MC_INLINE void store_bytes(uint8_t* p, u8x64 v) { memcpy(p, &v, sizeof v); }

MC_INLINE u8x64 shift_right(u8x64 v, int bits) {
#if defined(__AVX512BW__)
  return reinterpret_cast<u8x64>(_mm512_srli_epi16(reinterpret_cast<__m512i>(v), bits));  // garbage above
#else
  return v >> static_cast<uint8_t>(bits);
#endif
}

MC_INLINE u8x64 low_bits(u8x64 v, int bits) {
  const uint8_t mask = static_cast<uint8_t>((1 << bits) - 1);
  return v & mask;
}

MC_INLINE i32x16 set_int(int32_t value) { return value - i32x16{}; }

// Four signed bytes at `p`, for every lane.
MC_INLINE i32x16 load_quad(const int8_t* p) {
  int32_t quad;
  memcpy(&quad, p, sizeof quad);
  return set_int(quad);
}

// acc + u0 s0 + u1 s1 + u2 s2 + u3 s3 in each lane: u unsigned bytes below 128 or, where an instruction set has
// no such product, any; s signed bytes, the same for all lanes. Codes of up to 7 bits are exact everywhere.
MC_INLINE i32x16 dot(i32x16 acc, u8x64 u, i32x16 s) {
#if defined(__AVX512VNNI__)
  // An intrinsic here makes GCC 12 keep a tile's sums in memory; an operand tied by hand does not.
  asm("vpdpbusd %2,%1,%0" : "+v"(acc) : "v"(u), "v"(s));
  return acc;
#elif defined(__AVX2__)
  __m256i a[2], b[2], c[2];
  memcpy(a, &acc, sizeof a);
  memcpy(b, &u, sizeof b);
  memcpy(c, &s, sizeof c);
  for (int i = 0; i < 2; i++) {
    // Sixteen bits hold the sum of two products of bytes only when u is small, so odd and even bytes go apart.
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(b[i], _mm256_set1_epi16(0xff)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(c[i], 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(b[i], 8), _mm256_srai_epi16(c[i], 8));
    a[i] = _mm256_add_epi32(a[i], _mm256_add_epi32(even, odd));
  }
  memcpy(&acc, a, sizeof a);
  return acc;
#elif defined(__ARM_FEATURE_DOTPROD)
  int32x4_t a[4];
  int8x16_t b[4], c[4];
  memcpy(a, &acc, sizeof a);
  memcpy(b, &u, sizeof b);
  memcpy(c, &s, sizeof c);
  for (int i = 0; i < 4; i++) {
    // Both factors are signed here, so u comes as u - 128, and 128 s apart, once where several u meet the same s.
    const int32x4_t apart = vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(64), c[i]), 1);
    a[i] = vdotq_s32(vaddq_s32(a[i], apart), veorq_s8(b[i], vdupq_n_s8(-128)), c[i]);
  }
  memcpy(&acc, a, sizeof a);
  return acc;
#else
  u8x64 codes = u;
  i8x64 numbers;
  memcpy(&numbers, &s, sizeof numbers);
  int32_t sums[16];
  memcpy(sums, &acc, sizeof sums);
  for (int lane = 0; lane < 16; lane++)
    for (int j = 0; j < 4; j++)
      sums[lane] += static_cast<int32_t>(codes[4 * lane + j]) * static_cast<int32_t>(numbers[4 * lane + j]);
  memcpy(&acc, sums, sizeof sums);
  return acc;
#endif
}

MC_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// Into the second-level cache.
MC_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

// ---- attention ----

// 2^v with a relative error below 2e-7 for v <= 0; exactly 0 from -127 down.
MC_INLINE f32x16 exp2(f32x16 v) {
  v = max(v, set(-127.0f));
  const f32x16 shifted = v + set(12582912.0f);  // 1.5 * 2^23: the integer part is left in the low bits
  const f32x16 r = v - (shifted - set(12582912.0f));
  f32x16 p = set(1.326472690e-3f);
  p = fma(p, r, set(9.671512661e-3f));
  p = fma(p, r, set(5.550733744e-2f));
  p = fma(p, r, set(2.402224208e-1f));
  p = fma(p, r, set(6.931469776e-1f));
  p = fma(p, r, set(1.0f));
  return as_float(as_bits(p) + (as_bits(shifted) << 23));
}

MC_INLINE bool any_above(f32x16 v, float level) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(v, set(level), _CMP_GT_OQ) != 0;
#else
  return largest(v) > level;
#endif
}

// v in the lanes below `count`, `rest` in the others.
MC_INLINE f32x16 first_lanes(f32x16 v, int count, f32x16 rest) {
  const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < count ? v : rest;
}

MC_INLINE f32x16 load_int8(const int8_t* p) {
  int8_t __attribute__((vector_size(16))) bytes;
  memcpy(&bytes, p, sizeof bytes);
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(bytes)));
#else
  return to_float(__builtin_convertvector(bytes, i32x16));
#endif
}

// ---- small products and turns ----

// Past the caches where the processor can, for what is not read again soon; `p` is a multiple of 64.
MC_INLINE void stream(float* p, f32x16 v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v);
#elif defined(__AVX2__)
  __m256 half[2];
  memcpy(half, &v, sizeof half);
  _mm256_stream_ps(p, half[0]), _mm256_stream_ps(p + 8, half[1]);
#else
  store(p, v);
#endif
}

// What was streamed is seen by all threads that meet this one from here on.
MC_INLINE void end_stream() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Lane j of row i becomes lane i of row j.
MC_INLINE void transpose(f32x16 (&rows)[16]) {
#pragma GCC unroll 4
  for (int round = 0; round < 4; round++) {
    f32x16 next[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      next[2 * i] = __builtin_shufflevector(rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      next[2 * i + 1] =
          __builtin_shufflevector(rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) rows[i] = next[i];
  }
}

// Rows and vectors of sixteen columns of a tile of sums whose columns are in no panels; kSumRows divides 16.
#if defined(__AVX512F__)
constexpr int kSumRows = 8, kSumVectors = 2;
#elif defined(__ARM_NEON) || defined(__AVX2__)
constexpr int kSumRows = 4, kSumVectors = 1;
#else
constexpr int kSumRows = 2, kSumVectors = 1;
#endif

// sums[r][n] += sum over k < count of a[r * a_row + k * a_step] * b[k * b_step + 16 n ..]
template <int rows, int vectors>
MC_INLINE void add_products(f32x16 (&sums)[rows][vectors], const float* a, int64_t a_row, int64_t a_step,
                            const float* b, int64_t b_step, int64_t count) {
  for (int64_t k = 0; k < count; k++, a += a_step, b += b_step) {
    f32x16 right[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) right[n] = load(b + kLanes * n);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
      const f32x16 left = set(a[r * a_row]);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++) sums[r][n] = fma(left, right[n], sums[r][n]);
    }
  }
}

}  // namespace MC_ISA
}  // namespace minicpm
