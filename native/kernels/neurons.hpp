// The feed-forward of one row through its active neurons only.

#pragma once

#include "core/neurons.hpp"
#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

// Numbers of the neurons whose gate is above the threshold, in order; how many.
static int active_neurons(const float* gate, int count, float threshold, int32_t* active) {
  int found = 0, i = 0;
#if defined(__AVX512F__)
  __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; i + kLanes <= count; i += kLanes) {
    const __mmask16 above = _mm512_cmp_ps_mask(load(gate + i), set(threshold), _CMP_GT_OQ);
    _mm512_storeu_si512(active + found, _mm512_maskz_compress_epi32(above, numbers));
    found += __builtin_popcount(above);
    numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(kLanes));
  }
#endif
  for (; i < count; i++) {
    active[found] = i;
    found += gate[i] > threshold;
  }
  return found;
}

// ---- up ----

// Four neurons at a time, or one: their rows are read side by side, and those of the next four are called for.
template <int rows>
static void up_bf16(const NeuronRows& up, const float* x, const int32_t* active, int ahead, float* sums) {
  const uint16_t *row[rows], *next[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    row[r] = up.half_row(active[r]);
    next[r] = up.half_row(active[r + ahead]);
  }
  f32x16 even[rows] = {}, odd[rows] = {};
  int e = 0;
  for (; e + 32 <= up.width; e += 32) {
    const f32x16 x0 = load(x + e), x1 = load(x + e + kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      prefetch(next[r] + e);
      even[r] = fma(load_bf16(row[r] + e), x0, even[r]);
      odd[r] = fma(load_bf16(row[r] + e + kLanes), x1, odd[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    float rest = 0;
    for (int i = e; i < up.width; i++) rest += bf16_to_float(row[r][i]) * x[i];
    sums[r] = sum(even[r] + odd[r]) + rest;
  }
}

// `bytes` at a time: 64, or 32 where a group is no longer.
template <int rows, int bytes>
static void up_int8(const NeuronRows& up, const Activations& x, const int32_t* active, int ahead, float* sums) {
  const int groups = up.width / up.group;
  const uint8_t *row[rows], *next[rows];
  const uint16_t* scales[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    row[r] = up.row(active[r]);
    next[r] = up.row(active[r + ahead]);
    scales[r] = up.scales + static_cast<int64_t>(active[r]) * groups;
  }
  f32x16 total[rows] = {};
  for (int g = 0, e = 0; g < groups; g++) {
    const i32x16 zero = {-128 * x.sums[g]};  // once, in the first lane
    i32x16 products[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) products[r] = zero;
    for (const int end = e + up.group; e < end; e += bytes) {
      i32x16 numbers = {};
      memcpy(&numbers, x.codes + e, bytes);
#pragma GCC unroll 4
      for (int r = 0; r < rows; r++) {
        prefetch(next[r] + e);
        u8x64 codes = {};
        memcpy(&codes, row[r] + e, bytes);
        products[r] = dot(products[r], codes, numbers);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
      total[r] = fma(to_float(products[r]), set(f16_to_float(scales[r][g]) * x.scales[g]), total[r]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) sums[r] = sum(total[r]) * up.factor;
}

template <int rows>
MC_INLINE void up_some(const NeuronRows& up, const Activations& x, const int32_t* active, int ahead, float* sums) {
  if (up.format == Format::bf16)
    up_bf16<rows>(up, x.numbers, active, ahead, sums);
  else if (up.group % 64 == 0)
    up_int8<rows, 64>(up, x, active, ahead, sums);
  else
    up_int8<rows, 32>(up, x, active, ahead, sums);
}

// inner[i] = gate[i] * (up_i . x) for the neurons active[first .. last).
static void neurons_up(const NeuronRows& up, const Activations& x, const float* gate, const int32_t* active,
                       int first, int last, float* inner) {
  float sums[4];
  int i = first;
  for (; i + 4 <= last; i += 4) {
    up_some<4>(up, x, active + i, i + 8 <= last ? 4 : 0, sums);
    for (int r = 0; r < 4; r++) inner[active[i + r]] = gate[active[i + r]] * sums[r];
  }
  for (; i < last; i++) {
    up_some<1>(up, x, active + i, 0, sums);
    inner[active[i]] = gate[active[i]] * sums[0];
  }
}

// ---- down ----

// y[first .. last) += the rows of four active neurons, or of one.
template <int rows>
static void down_bf16(const NeuronRows& down, const float* inner, const int32_t* active, int ahead, int first,
                      int last, float* y) {
  const uint16_t *row[rows], *next[rows];
  float a[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    row[r] = down.half_row(active[r]);
    next[r] = down.half_row(active[r + ahead]);
    a[r] = inner[active[r]];
  }
  int e = first;
  for (; e + 32 <= last; e += 32) {
    f32x16 y0 = load(y + e), y1 = load(y + e + kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      prefetch(next[r] + e);
      y0 = fma(load_bf16(row[r] + e), set(a[r]), y0);
      y1 = fma(load_bf16(row[r] + e + kLanes), set(a[r]), y1);
    }
    store(y + e, y0), store(y + e + kLanes, y1);
  }
  for (; e < last; e++)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) y[e] += bf16_to_float(row[r][e]) * a[r];
}

MC_INLINE void interleave(const uint8_t* const (&rows)[4], int64_t at, u8x64 (&quads)[4]) {
  const u8x64 a = load_bytes(rows[0] + at), b = load_bytes(rows[1] + at);
  const u8x64 c = load_bytes(rows[2] + at), d = load_bytes(rows[3] + at);
#if defined(__AVX512BW__)
  const __m512i ab0 = _mm512_unpacklo_epi8(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
  const __m512i ab1 = _mm512_unpackhi_epi8(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
  const __m512i cd0 = _mm512_unpacklo_epi8(reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(d));
  const __m512i cd1 = _mm512_unpackhi_epi8(reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(d));
  quads[0] = reinterpret_cast<u8x64>(_mm512_unpacklo_epi16(ab0, cd0));
  quads[1] = reinterpret_cast<u8x64>(_mm512_unpackhi_epi16(ab0, cd0));
  quads[2] = reinterpret_cast<u8x64>(_mm512_unpacklo_epi16(ab1, cd1));
  quads[3] = reinterpret_cast<u8x64>(_mm512_unpackhi_epi16(ab1, cd1));
#else
  uint8_t bytes[4][64], out[4][64];
  store_bytes(bytes[0], a), store_bytes(bytes[1], b), store_bytes(bytes[2], c), store_bytes(bytes[3], d);
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++)
      for (int m = 0; m < 4; m++)
        for (int r = 0; r < 4; r++) out[j][16 * i + 4 * m + r] = bytes[r][16 * i + 4 * j + m];
  for (int j = 0; j < 4; j++) quads[j] = load_bytes(out[j]);
#endif
}

// One group's active neurons, four at a time; `next` are those of the next group.
static void down_int8_group(const NeuronRows& down, const Activations& inner, const int32_t* active, int count,
                            int next, int group, int first, int last, float* y) {
  const f32x16 scale = set(inner.scales[group] * down.factor);
  const i32x16 zero = set_int(-128 * inner.sums[group]);
  const uint16_t* scales = down.scales + static_cast<int64_t>(group) * down.width;
  for (int e = first; e < last; e += 64) {
    i32x16 sums[4] = {zero, zero, zero, zero};
    for (int i = 0; i < count; i += 4) {
      const uint8_t* rows[4];
      int8_t codes[4];
      for (int r = 0; r < 4; r++) {
        const int32_t neuron = active[i + r < count ? i + r : i];
        rows[r] = down.row(neuron);
        codes[r] = i + r < count ? inner.codes[neuron] : static_cast<int8_t>(0);
      }
      const i32x16 quad = load_quad(codes);
      u8x64 quads[4];
      interleave(rows, e, quads);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) sums[j] = dot(sums[j], quads[j], quad);
    }
    for (int i = 0; i < next; i++) prefetch(down.row(active[count + i]) + e);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      float* part = y + e + kLanes * j;
      store(part, fma(to_float(sums[j]), load_f16(scales + e + kLanes * j) * scale, load(part)));
    }
  }
}

static int in_group(const int32_t* active, int count, int end) {
  int found = 0;
  while (found < count && active[found] < end) found++;
  return found;
}

static void down_int8(const NeuronRows& down, const Activations& inner, const int32_t* active, int count, int first,
                      int last, float* y) {
  for (int group = 0; group < down.neurons / down.group; group++) {
    const int here = in_group(active, count, (group + 1) * down.group);
    const int next = in_group(active + here, count - here, (group + 2) * down.group);
    if (here) down_int8_group(down, inner, active, here, next, group, first, last, y);
    active += here, count -= here;
  }
}

// y[first .. last) = sum over the active neurons of inner_i * down_i.
static void neurons_down(const NeuronRows& down, const Activations& inner, const int32_t* active, int count,
                         int first, int last, float* y) {
  for (int e = first; e < last; e++) y[e] = 0;
  if (down.format != Format::bf16) return down_int8(down, inner, active, count, first, last, y);
  int i = 0;
  for (; i + 4 <= count; i += 4)
    down_bf16<4>(down, inner.numbers, active + i, i + 8 <= count ? 4 : 0, first, last, y);
  for (; i < count; i++) down_bf16<1>(down, inner.numbers, active + i, 0, first, last, y);
}

// h += scale * y, where the reference rounds.
static void add_rounded(const float* y, float scale, int count, uint16_t* h) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes)
    store_bf16(h + i, fma(rounded_to_bf16(load(y + i)), set(scale), load_bf16(h + i)));
  for (; i < count; i++)
    h[i] = float_to_bf16(bf16_to_float(h[i]) + bf16_to_float(float_to_bf16(y[i])) * scale);
}

}  // namespace MC_ISA
}  // namespace minicpm
