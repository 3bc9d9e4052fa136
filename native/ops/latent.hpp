// Latent attention in its absorbed form: every head reads the same cached rows.

#pragma once

#include <cstdint>
#include <vector>

#include "core/arena.hpp"
#include "core/head_rows.hpp"
#include "core/latent.hpp"
#include "core/pool.hpp"

namespace minicpm {

// New tokens of one sequence: rows row .. row + count - 1 of the queries, the last of `length` cached tokens. Page i
// of the sequence is page pages[i] of the store; page i itself where `pages` is null.
struct LatentSegment {
  int64_t row, count, length;
  const int32_t* pages;
};

// One layer's attention: softmax(q_h . [u_k_h c, shared key] / sqrt(nope + rope)) u_v_h c over cached rows.
class Latent {
 public:
  // bfloat16 u_k [heads][nope][rank] and u_v [heads][value][rank], their heads `stride` numbers apart.
  Latent(const LatentShape& shape, const uint16_t* u_k, const uint16_t* u_v, int64_t stride);

  // q [tokens][heads][nope + rope], its rope part rotated; out [tokens][heads][value]. Nothing beyond a sequence's
  // length is read for a sum.
  void run(Pool& pool, Scratch& scratch, const HeadRows& q, const uint16_t* latents, const HeadRows& out,
           const std::vector<LatentSegment>& segments) const;

  const LatentShape& shape() const { return shape_; }

 private:
  LatentShape shape_;
  const uint16_t* u_k_;
  const uint16_t* u_v_;
  int64_t stride_;
};

}  // namespace minicpm
