// Lightning attention of one head: a step of one token, and a chunk of up to 64 as products of matrices.
//
// With a and b tokens of a chunk and L what a state keeps per token:
//
//   out_a = scale * (L^(a+1) q_a S  +  sum over b <= a of L^(a-b) (q_a . k_b) v_b)
//   S     = L^count S  +  sum over b of L^(count-1-b) k_b v_b^T
//
// All powers have exponents of zero or more, so none leaves float32.

#pragma once

#include "core/lightning.hpp"
#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

MC_INLINE f32x16 load_head(const HeadRows& x, int64_t token, int head, int e) {
  return x.half ? load_bf16(x.half_at(token, head) + e) : load(x.wide_at(token, head) + e);
}

MC_INLINE void store_head(const HeadRows& x, int64_t token, int head, int e, f32x16 v) {
  if (x.half)
    store_bf16(static_cast<uint16_t*>(x.at(token, head)) + e, v);
  else
    store(static_cast<float*>(x.at(token, head)) + e, v);
}

// ---- one token ----

template <bool past, bool streams>
MC_INLINE f32x16 next_state(const float* before, float* after, f32x16 kept, f32x16 key, f32x16 value) {
  f32x16 state = key * value;
  if (past) state = fma(kept, load(before), state);
  if (streams)
    stream(after, state);
  else
    store(after, state);
  return state;
}

// Columns first .. first + 16 * vectors - 1 of the state; what q reads from them in `out`.
template <int vectors, bool past, bool streams>
static void step_columns(const LightningHead& h, const LightningSpan& span, const float* q, const float* k,
                         int first) {
  const int width = h.values();
  const f32x16 kept = set(h.powers[1]);
  f32x16 value[vectors], out[vectors];
#pragma GCC unroll 8
  for (int n = 0; n < vectors; n++) {
    value[n] = load_head(h.v, span.row, h.shared, first + kLanes * n);
    out[n] = f32x16{};
  }
  const float* before = past ? span.before + first : nullptr;
  float* after = span.after + first;
  for (int i = 0; i < h.keys(); i++, after += width) {
    const f32x16 key = set(k[i]), query = set(q[i]);
#pragma GCC unroll 8
    for (int n = 0; n < vectors; n++)
      out[n] = fma(query, next_state<past, streams>(before + kLanes * n, after + kLanes * n, kept, key, value[n]),
                   out[n]);
    if (past) before += width;
  }
#pragma GCC unroll 8
  for (int n = 0; n < vectors; n++) store_head(h.out, span.row, h.head, first + kLanes * n, out[n]);
}

template <bool past, bool streams>
static void step_state(const LightningHead& h, const LightningSpan& span) {
#if defined(__AVX512F__)
  constexpr int kMost = 8;
#else
  constexpr int kMost = 2;
#endif
  alignas(64) float q[kMostWidth], k[kMostWidth];
  for (int i = 0; i < h.keys(); i += kLanes) {
    store(q + i, load_head(h.q, span.row, h.head, i) * set(h.scale));
    store(k + i, load_head(h.k, span.row, h.shared, i));
  }
  int column = 0;
  for (; column + kMost * kLanes <= h.values(); column += kMost * kLanes)
    step_columns<kMost, past, streams>(h, span, q, k, column);
  for (; column < h.values(); column += kLanes) step_columns<1, past, streams>(h, span, q, k, column);
}

static void lightning_step(const LightningHead& h, const LightningSpan& span) {
  // A new state elsewhere is written past the caches, or each of its lines would be read first.
  const bool streams = span.before != span.after && reinterpret_cast<uintptr_t>(span.after) % 64 == 0;
  if (!span.before)
    step_state<false, false>(h, span);
  else if (!streams)
    step_state<true, false>(h, span);
  else
    step_state<true, true>(h, span), end_stream();
}

// ---- a chunk ----

// Float32 copies of a chunk; tokens that only fill a vector are zero.
struct LightningChunk {
  float *q, *k;    // [keys][kChunk] turned
  float* faded;    // [kChunk][keys] k, as much as the state after the chunk sees of it
  float* v;        // [kChunk][values]
  float* scores;   // [b][a] what token a sees of b, scaled
  const LightningHead& h;
  const LightningSpan& span;

  int filled() const { return (span.count + kLanes - 1) / kLanes * kLanes; }
};

// Rows of a head, sixteen tokens by sixteen numbers at a time, each turned.
template <class Row>
MC_INLINE void turn(const LightningChunk& c, int width, float* turned, Row&& row) {
  for (int token = 0; token < c.filled(); token += kLanes)
    for (int e = 0; e < width; e += kLanes) {
      f32x16 block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) block[i] = token + i < c.span.count ? row(token + i, e) : f32x16{};
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) store(turned + (e + i) * kChunk + token, block[i]);
    }
}

static void gather_chunk(const LightningChunk& c) {
  const LightningHead& h = c.h;
  const int64_t row = c.span.row;
  turn(c, h.keys(), c.q, [&](int token, int e) { return load_head(h.q, row + token, h.head, e); });
  turn(c, h.keys(), c.k, [&](int token, int e) {
    const f32x16 key = load_head(h.k, row + token, h.shared, e);
    store(c.faded + token * h.keys() + e, key * set(h.powers[c.span.count - 1 - token]));
    return key;
  });
  for (int token = 0; token < c.span.count; token++)
    for (int e = 0; e < h.values(); e += kLanes)
      store(c.v + token * h.values() + e, load_head(h.v, row + token, h.shared, e));
}

// fading[kChunk + n] is scale * L^n, and 0 below that: no token sees a later one.
template <int vectors>
static void score_tile(const LightningChunk& c, const float* fading, int b, int a) {
  f32x16 sums[kSumRows][vectors] = {};
  add_products<kSumRows, vectors>(sums, c.k + b, 1, kChunk, c.q + a, kChunk, c.h.keys());
#pragma GCC unroll 16
  for (int r = 0; r < kSumRows; r++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++)
      store(c.scores + (b + r) * kChunk + a + kLanes * n,
            sums[r][n] * load(fading + kChunk + a + kLanes * n - b - r));
}

static void score_chunk(const LightningChunk& c) {
  float fading[2 * kChunk];
  for (int n = 0; n < kChunk; n++) fading[n] = 0, fading[kChunk + n] = c.h.scale * c.h.powers[n];
  for (int b = 0; b < c.filled(); b += kSumRows) {
    int a = b / kLanes * kLanes;
    for (; a + kSumVectors * kLanes <= c.filled(); a += kSumVectors * kLanes)
      score_tile<kSumVectors>(c, fading, b, a);
    for (; a < c.filled(); a += kLanes) score_tile<1>(c, fading, b, a);
  }
}

template <int vectors>
static void out_tile(const LightningChunk& c, int a, int column) {
  const int width = c.h.values();
  f32x16 sums[kSumRows][vectors] = {};
  if (c.span.before) {
    add_products<kSumRows, vectors>(sums, c.q + a, 1, kChunk, c.span.before + column, width, c.h.keys());
#pragma GCC unroll 16
    for (int r = 0; r < kSumRows; r++)
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++) sums[r][n] *= set(c.h.scale * c.h.powers[a + r + 1]);
  }
  const int seen = a + kSumRows < c.span.count ? a + kSumRows : c.span.count;
  add_products<kSumRows, vectors>(sums, c.scores + a, 1, kChunk, c.v + column, width, seen);
#pragma GCC unroll 16
  for (int r = 0; r < kSumRows; r++)
    if (a + r < c.span.count)
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++)
        store_head(c.h.out, c.span.row + a + r, c.h.head, column + kLanes * n, sums[r][n]);
}

template <int vectors>
static void state_tile(const LightningChunk& c, int row, int column) {
  const int width = c.h.values();
  f32x16 sums[kSumRows][vectors] = {};
  if (c.span.before) {
    const f32x16 kept = set(c.h.powers[c.span.count]);
#pragma GCC unroll 16
    for (int r = 0; r < kSumRows; r++)
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++)
        sums[r][n] = kept * load(c.span.before + (row + r) * width + column + kLanes * n);
  }
  add_products<kSumRows, vectors>(sums, c.faded + row, 1, c.h.keys(), c.v + column, width, c.span.count);
#pragma GCC unroll 16
  for (int r = 0; r < kSumRows; r++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) store(c.span.after + (row + r) * width + column + kLanes * n, sums[r][n]);
}

static void lightning_chunk(const LightningHead& h, const LightningSpan& span, float* scratch) {
  const int64_t turned = static_cast<int64_t>(kChunk) * h.keys();
  const LightningChunk c = {scratch,
                            scratch + turned,
                            scratch + 2 * turned,
                            scratch + 3 * turned,
                            scratch + 3 * turned + static_cast<int64_t>(kChunk) * h.values(),
                            h,
                            span};
  gather_chunk(c);
  score_chunk(c);
  constexpr int kColumns = kSumVectors * kLanes;
  int column = 0;
  // The outputs first: they read the state that may be replaced in its place.
  for (; column + kColumns <= h.values(); column += kColumns)
    for (int a = 0; a < span.count; a += kSumRows) out_tile<kSumVectors>(c, a, column);
  for (; column < h.values(); column += kLanes)
    for (int a = 0; a < span.count; a += kSumRows) out_tile<1>(c, a, column);
  for (column = 0; column + kColumns <= h.values(); column += kColumns)
    for (int row = 0; row < h.keys(); row += kSumRows) state_tile<kSumVectors>(c, row, column);
  for (; column < h.values(); column += kLanes)
    for (int row = 0; row < h.keys(); row += kSumRows) state_tile<1>(c, row, column);
}

}  // namespace MC_ISA
}  // namespace minicpm
