#include "ops/mlp.hpp"

#include <cstring>
#include <utility>

#include "ops/linear.hpp"

namespace minicpm {

Mlp::Mlp(std::vector<float> norm, float eps, const Matrix& gate_up, const Matrix& down, Finish act, float threshold,
         float residual_scale)
    : norm_(std::move(norm)),
      eps_(eps),
      gate_up_(gate_up),
      down_(down),
      act_(act),
      threshold_(threshold),
      residual_scale_(residual_scale) {}

void Mlp::run(Pool& pool, Scratch& scratch, uint16_t* h, int rows) const {
  struct Parts {
    Inputs x, inner;
    Unpacking unpack_up, unpack_down;
    float* activated;
  };
  // A panel finishes 16 activations at once, the last one perhaps some that are none.
  const int64_t padded = gate_up_.panels() * kBlock;
  const auto cut = [&](Frame& frame) {
    return Parts{Inputs(frame, gate_up_, rows, pool.threads()), Inputs(frame, down_, rows, pool.threads()),
                 Unpacking(frame, gate_up_, pool.threads()), Unpacking(frame, down_, pool.threads()),
                 frame.take<float>(static_cast<int64_t>(rows) * padded)};
  };
  Frame measure;
  cut(measure);
  const auto held = scratch.hold();
  Frame frame(scratch.take(measure.used()));
  const Parts parts = cut(frame);
  const int width = gate_up_.inputs, inner = down_.inputs;
  pool.run([&](Team& team) {
    const Activations x = parts.x.stage(team, [&](int64_t row, float* out) {
      kernels().rms_norm(h + row * width, norm_.data(), eps_, width, out);
    });
    multiply(team, gate_up_, x, rows, {act_, parts.activated, padded, threshold_}, parts.unpack_up);
    team.barrier();
    const Activations y = parts.inner.stage(team, [&](int64_t row, float* out) {
      std::memcpy(out, parts.activated + row * padded, static_cast<size_t>(inner) * sizeof(float));
    });
    multiply(team, down_, y, rows, {Finish::residual, h, width, residual_scale_}, parts.unpack_down);
  });
}

}  // namespace minicpm
