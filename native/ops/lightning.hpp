// Lightning attention of all heads over the new tokens of several sequences.

#pragma once

#include <cstdint>
#include <vector>

#include "core/arena.hpp"
#include "core/lightning.hpp"
#include "core/pool.hpp"

namespace minicpm {

// One layer's operator: heads with constant decay, S_t = L S_(t-1) + k_t v_t^T and o_t = scale q_t^T S_t.
class Lightning {
 public:
  // `slopes` has one per head, L = exp(-slope); each `heads / shared` heads in turn read the same head of k and v.
  Lightning(const std::vector<float>& slopes, int shared, float scale);

  // States [heads][keys][values] before and after each span; a span may go on from one before it in the list.
  void run(Pool& pool, Scratch& scratch, const HeadRows& q, const HeadRows& k, const HeadRows& v,
           const HeadRows& out, const std::vector<LightningSpan>& spans) const;

 private:
  int heads_, group_;
  float scale_;
  std::vector<float> powers_;  // [heads][kChunk + 1]
};

}  // namespace minicpm
