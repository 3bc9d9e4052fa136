// How latent attention lies in memory for its kernels.
//
// Latents are bfloat16 rows [width], width = rank + rope: the normalised latent and the key that all heads share.
// They lie in pages of 64 rows. Queries that read the same pages form a block, its rows the heads of each query in
// turn, in panels of 8 rows.

#pragma once

#include <cstdint>

namespace minicpm {

constexpr int kLatentPage = 64;
constexpr int kLatentPanel = 8;

struct LatentShape {
  int32_t heads, nope, rope, value, rank;

  int width() const { return rank + rope; }
};

// Queries of one sequence and what has been read for them so far. Weights are powers of two: q carries
// log2(e) / sqrt(nope + rope).
struct LatentBlock {
  int32_t rows;       // queries * heads
  int32_t heads;
  int64_t position;   // of the first query
  const float* q;     // panels [width][8]
  float* sums;        // [rows][rank] weighted latents
  float* peak;        // [rows] the largest score
  float* total;       // [rows] the sum of weights

  int panels() const { return (rows + kLatentPanel - 1) / kLatentPanel; }
};

// Floats that the kernel of a page works in: the page turned, the page, and scores.
inline int64_t latent_scratch(const LatentShape& shape) {
  return static_cast<int64_t>(kLatentPage) * (shape.width() + shape.rank + kLatentPanel);
}

}  // namespace minicpm
