// The gated feed-forward that reads the weights of active neurons only.

#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/arena.hpp"
#include "core/matrix.hpp"
#include "core/neurons.hpp"
#include "core/pool.hpp"

namespace minicpm {

// h += residual_scale * down(act(gate(x)) * up(x)), x = rms_norm(h) * norm, for h bfloat16 [rows][width], where act
// keeps what is above `threshold`. A neuron whose gate is zero adds exactly zero, so leaving it out changes the
// order of float32 sums and nothing else.
class Neurons {
 public:
  // All three of one format and group.
  Neurons(std::vector<float> norm, float eps, const Matrix& gate, const NeuronRows& up, const NeuronRows& down,
          float threshold, float residual_scale);

  // Row after row.
  void run(Pool& pool, Scratch& scratch, uint16_t* h, int rows);

  // How many neurons were active in the last run, in all of its rows together.
  int64_t active() const { return active_; }

 private:
  struct Room;
  int row(Team& team, const Room& room, uint16_t* h) const;

  std::vector<float> norm_;
  float eps_;
  Matrix gate_;
  NeuronRows up_, down_;
  float threshold_, residual_scale_;
  std::atomic<int64_t> active_{0};
};

}  // namespace minicpm
