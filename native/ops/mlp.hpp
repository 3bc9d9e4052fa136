// The gated feed-forward with what stands around it: norm, two products, residual.

#pragma once

#include <cstdint>
#include <vector>

#include "core/arena.hpp"
#include "core/matrix.hpp"
#include "core/pool.hpp"

namespace minicpm {

// h += residual_scale * down(act(gate(x)) * up(x)), x = rms_norm(h) * norm, for h bfloat16 [rows][width].
class Mlp {
 public:
  // `gate_up` has in each panel 16 outputs of gate and the same 16 of up; `act` is swiglu or fatrelu.
  Mlp(std::vector<float> norm, float eps, const Matrix& gate_up, const Matrix& down, Finish act, float threshold,
      float residual_scale);

  void run(Pool& pool, Scratch& scratch, uint16_t* h, int rows) const;

 private:
  std::vector<float> norm_;
  float eps_;
  Matrix gate_up_, down_;
  Finish act_;
  float threshold_, residual_scale_;
};

}  // namespace minicpm
