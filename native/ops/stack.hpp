// The native halves of consecutive blocks, run one after the other.

#pragma once

#include <cstdint>
#include <vector>

#include "ops/attention_layer.hpp"
#include "ops/mlp.hpp"

namespace minicpm {

// What the halves are is decided where they are made; here they only follow each other, so that decoding calls once.
class Stack {
 public:
  void attend(const AttentionLayer& attention, const KvPages& kv, uint16_t* compressed) {
    halves_.push_back({&attention, kv, compressed, nullptr});
  }
  void feed(const Mlp& mlp) { halves_.push_back({nullptr, {}, nullptr, &mlp}); }

  // All halves on h bfloat16 [rows][hidden], which they add to.
  void run(Pool& pool, Scratch& scratch, uint16_t* h, const Step& step) const {
    for (const Half& half : halves_)
      if (half.attention)
        half.attention->run(pool, scratch, h, step, half.kv, half.compressed);
      else
        half.mlp->run(pool, scratch, h, step.rows);
  }

 private:
  struct Half {
    const AttentionLayer* attention;
    KvPages kv;
    uint16_t* compressed;
    const Mlp* mlp;
  };
  std::vector<Half> halves_;
};

}  // namespace minicpm
