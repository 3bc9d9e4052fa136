// The native halves of consecutive blocks, run one after the other.

#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "ops/attention_layer.hpp"
#include "ops/mlp.hpp"
#include "ops/neurons.hpp"

namespace minicpm {

// What the halves are is decided where they are made; here they only follow each other, so that decoding calls once.
class Stack {
 public:
  void attend(const AttentionLayer& attention, const KvPages& kv, uint16_t* compressed) {
    halves_.push_back(Attention{&attention, kv, compressed});
  }
  void feed(const Mlp& mlp) { halves_.push_back(FeedForward{&mlp}); }

  // Active neurons alone for up to `rows` rows, and all of them for more.
  void feed_active(const Mlp& mlp, Neurons& neurons, int rows) { halves_.push_back(Active{&mlp, &neurons, rows}); }

  // All halves on h bfloat16 [rows][hidden], which they add to.
  void run(Pool& pool, Scratch& scratch, uint16_t* h, const Step& step) const {
    for (const Half& half : halves_)
      std::visit([&](const auto& some) { some.run(pool, scratch, h, step); }, half);
  }

 private:
  struct Attention {
    const AttentionLayer* layer;
    KvPages kv;
    uint16_t* compressed;

    void run(Pool& pool, Scratch& scratch, uint16_t* h, const Step& step) const {
      layer->run(pool, scratch, h, step, kv, compressed);
    }
  };
  struct FeedForward {
    const Mlp* mlp;

    void run(Pool& pool, Scratch& scratch, uint16_t* h, const Step& step) const {
      mlp->run(pool, scratch, h, step.rows);
    }
  };
  struct Active {
    const Mlp* all;
    Neurons* active;
    int most_rows;

    void run(Pool& pool, Scratch& scratch, uint16_t* h, const Step& step) const {
      if (step.rows <= most_rows)
        active->run(pool, scratch, h, step.rows);
      else
        all->run(pool, scratch, h, step.rows);
    }
  };
  using Half = std::variant<Attention, FeedForward, Active>;
  std::vector<Half> halves_;
};

}  // namespace minicpm
