// Attention over latents that all heads share, and the products with each head's own matrices around it.
//
// A page is widened once, as it is for sums and turned for scores; then each panel of eight rows meets it in three
// steps: scores, weights (the softmax so far), weighted latents.

#pragma once

#include "core/latent.hpp"
#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

// Less than any score, but finite, so that differences are numbers.
constexpr float kLowestScore = -1e30f;
// How many numbers of a head's matrix are called for before they are needed.
constexpr int kMatrixAhead = 1024;

// ---- into the space of the latents and back ----

// out[r][0 .. 16 * vectors) = sum over k of x[r][k] * w[k][..], w bfloat16 with rows `width` wide.
template <int rows, int vectors>
static void moved_tile(const uint16_t* w, int width, int count, const float* x, int64_t x_row, float* out,
                       int64_t out_row) {
  f32x16 sums[rows][vectors] = {};
  for (int k = 0; k < count; k++, w += width) {
#pragma GCC unroll 16
    for (int n = 0; n < vectors; n++) {
      if constexpr (rows == 1) prefetch(w + kLanes * n + kMatrixAhead);
      const f32x16 weight = load_bf16(w + kLanes * n);
#pragma GCC unroll 4
      for (int r = 0; r < rows; r++) sums[r][n] = fma(set(x[r * x_row + k]), weight, sums[r][n]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
    for (int n = 0; n < vectors; n++) store(out + r * out_row + kLanes * n, sums[r][n]);
}

template <int rows>
static void moved_rows(const uint16_t* w, int width, int count, const float* x, int64_t x_row, float* out) {
#if defined(__AVX512F__)
  constexpr int kMost = 16 / rows;
#else
  constexpr int kMost = rows == 1 ? 4 : 1;
#endif
  int column = 0;
  for (; column + kMost * kLanes <= width; column += kMost * kLanes)
    moved_tile<rows, kMost>(w + column, width, count, x, x_row, out + column, width);
  for (; column < width; column += kLanes)
    moved_tile<rows, 1>(w + column, width, count, x, x_row, out + column, width);
}

// x [rows][nope], x_row numbers apart, times u_k [nope][rank]: out [rows][rank].
static void latent_absorb(const uint16_t* u_k, int nope, int rank, const float* x, int64_t x_row, int rows,
                          float* out) {
  int row = 0;
  for (; row + 4 <= rows; row += 4) moved_rows<4>(u_k, rank, nope, x + row * x_row, x_row, out + row * rank);
  for (; row < rows; row++) moved_rows<1>(u_k, rank, nope, x + row * x_row, x_row, out + row * rank);
}

template <int rows>
static void value_rows(const uint16_t* u_v, int value, int rank, const float* x, float* out) {
  for (int i = 0; i < value; i++, u_v += rank) {
    f32x16 sums[rows] = {};
    for (int e = 0; e < rank; e += kLanes) {
      if constexpr (rows == 1) prefetch(u_v + e + kMatrixAhead);
      const f32x16 weight = load_bf16(u_v + e);
#pragma GCC unroll 4
      for (int r = 0; r < rows; r++) sums[r] = fma(weight, load(x + r * rank + e), sums[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) out[r * value + i] = sum(sums[r]);
  }
}

// x [rows][rank] times u_v [value][rank] turned: out [rows][value].
static void latent_value(const uint16_t* u_v, int value, int rank, const float* x, int rows, float* out) {
  int row = 0;
  for (; row + 4 <= rows; row += 4) value_rows<4>(u_v, value, rank, x + row * rank, out + row * value);
  for (; row < rows; row++) value_rows<1>(u_v, value, rank, x + row * rank, out + row * value);
}

// ---- a page ----

struct LatentPage {
  const float* turned;  // [width][64]
  const float* rows;    // [64][rank]
  int tokens;
};

// Rows beyond `tokens` may be no memory at all. Scores of what stands for them are masked.
static void widen_page(const LatentShape& shape, const uint16_t* page, int tokens, float* turned, float* rows) {
  const int width = shape.width(), pairs = width / 2;
  for (int token = 0; token < tokens; token += kLanes) {
    int pair = 0;
    for (; pair + kLanes <= pairs; pair += kLanes) {
      f32x16 block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        block[i] = f32x16{};
        if (token + i < tokens)
          memcpy(&block[i], page + static_cast<int64_t>(token + i) * width + 2 * pair, sizeof block[i]);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) {
        const u32x16 both = as_bits(block[i]);
        store(turned + (2 * (pair + i)) * kLatentPage + token, as_float(both << 16));
        store(turned + (2 * (pair + i) + 1) * kLatentPage + token, as_float(both & 0xffff0000u));
      }
    }
    for (int e = 2 * pair; e < width; e++)
      for (int i = 0; i < kLanes && token + i < tokens; i++)
        turned[e * kLatentPage + token + i] = bf16_to_float(page[static_cast<int64_t>(token + i) * width + e]);
  }
  for (int token = 0; token < tokens; token++)
    for (int e = 0; e < shape.rank; e += kLanes)
      store(rows + token * shape.rank + e, load_bf16(page + static_cast<int64_t>(token) * width + e));
}

template <int vectors>
static void latent_score_tile(const float* q, const LatentPage& page, int width, int token, float* scores) {
  f32x16 sums[kSumRows][vectors] = {};
  add_products<kSumRows, vectors>(sums, q, 1, kLatentPanel, page.turned + token, kLatentPage, width);
#pragma GCC unroll 16
  for (int r = 0; r < kSumRows; r++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) store(scores + r * kLatentPage + token + kLanes * n, sums[r][n]);
}

static void score_panel(const float* q, const LatentPage& page, int width, float* scores) {
  for (int r = 0; r < kLatentPanel; r += kSumRows) {
    int token = 0;
    for (; token + kSumVectors * kLanes <= kLatentPage && token < page.tokens; token += kSumVectors * kLanes)
      latent_score_tile<kSumVectors>(q + r, page, width, token, scores + r * kLatentPage);
  }
}

// Scores of one row become weights, zero from `seen` on; what was summed for smaller peaks is scaled down.
static void weigh_row(const LatentBlock& block, int row, int rank, int seen, float* scores) {
  f32x16 s[4], peak = set(kLowestScore);
#pragma GCC unroll 4
  for (int n = 0; n < 4; n++) {
    s[n] = first_lanes(load(scores + kLanes * n), seen - kLanes * n, set(kLowestScore));
    peak = max(peak, s[n]);
  }
  const float before = block.peak[row], highest = largest(peak), now = highest > before ? highest : before;
  if (now > before) {
    const float factor = before == kLowestScore ? 0.0f : std::exp2(before - now);
    block.peak[row] = now;
    block.total[row] *= factor;
    float* sums = block.sums + static_cast<int64_t>(row) * rank;
    for (int e = 0; e < rank; e += kLanes) store(sums + e, load(sums + e) * set(factor));
  }
  f32x16 total = {};
#pragma GCC unroll 4
  for (int n = 0; n < 4; n++) {
    const f32x16 weight = exp2(s[n] - set(now));
    const f32x16 kept = first_lanes(weight, seen - kLanes * n, f32x16{});
    total += kept;
    store(scores + kLanes * n, kept);
  }
  block.total[row] += sum(total);
}

template <int vectors>
static void latent_sum_tile(const float* weights, const LatentPage& page, int rank, int e, int live, float* sums) {
  f32x16 tile[kSumRows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < kSumRows; r++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) tile[r][n] = r < live ? load(sums + r * rank + e + kLanes * n) : f32x16{};
  add_products<kSumRows, vectors>(tile, weights, kLatentPage, 1, page.rows + e, rank, page.tokens);
#pragma GCC unroll 16
  for (int r = 0; r < kSumRows; r++)
    if (r < live)
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++) store(sums + r * rank + e + kLanes * n, tile[r][n]);
}

static void sum_panel(const float* weights, const LatentPage& page, int rank, int live, float* sums) {
  for (int r = 0; r < live; r += kSumRows) {
    const float* part = weights + r * kLatentPage;
    float* into = sums + static_cast<int64_t>(r) * rank;
    int e = 0;
    for (; e + kSumVectors * kLanes <= rank; e += kSumVectors * kLanes)
      latent_sum_tile<kSumVectors>(part, page, rank, e, live - r, into);
    for (; e < rank; e += kLanes) latent_sum_tile<1>(part, page, rank, e, live - r, into);
  }
}

// Reads `tokens` tokens of a page that begins at position `first`, for all rows of a block.
static void latent_page(const LatentShape& shape, const LatentBlock& block, const uint16_t* data, int64_t first,
                        int tokens, float* scratch) {
  const int width = shape.width(), rank = shape.rank;
  float* turned = scratch;
  float* rows = turned + kLatentPage * width;
  float* scores = rows + kLatentPage * rank;
  widen_page(shape, data, tokens, turned, rows);
  const LatentPage page = {turned, rows, tokens};
  for (int panel = 0; panel < block.panels(); panel++) {
    const int row = panel * kLatentPanel;
    const int live = block.rows - row < kLatentPanel ? block.rows - row : kLatentPanel;
    score_panel(block.q + static_cast<int64_t>(row) * width, page, width, scores);
    for (int r = 0; r < live; r++) {
      const int64_t seen = block.position + (row + r) / block.heads + 1 - first;
      const int most = seen < 0 ? 0 : seen < tokens ? static_cast<int>(seen) : tokens;
      weigh_row(block, row + r, rank, most, scores + r * kLatentPage);
    }
    for (int i = live * kLatentPage; i < kLatentPanel * kLatentPage; i++) scores[i] = 0;
    sum_panel(scores, page, rank, live, block.sums + static_cast<int64_t>(row) * rank);
  }
}

}  // namespace MC_ISA
}  // namespace minicpm
