#include "ops/neurons.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/linear.hpp"

namespace minicpm {

namespace {

constexpr int kColumns = 64;  // what threads share out of a row of down

// A matrix that stands for down, so that its inputs are made as the dense form makes them.
Matrix like(const NeuronRows& down) {
  const int32_t group = down.format == Format::bf16 ? down.neurons : down.group;
  return {down.format, down.width, down.neurons, group, Shift::middle, down.factor, nullptr};
}

}  // namespace

struct Neurons::Room {
  Matrix turned;
  Inputs x, activated;
  Unpacking unpacking;
  float *gate, *inner, *y;
  int32_t* active;  // each thread's own list, and four entries more
  int64_t each;

  Room(Frame& frame, const Neurons& n, int threads)
      : turned(like(n.down_)),
        x(frame, n.gate_, 1, threads),
        activated(frame, turned, 1, threads),
        unpacking(frame, n.gate_, threads),
        gate(frame.take<float>(n.gate_.outputs)),
        inner(frame.take<float>(n.gate_.outputs)),
        y(frame.take<float>(n.down_.width)),
        active(nullptr),
        each((n.gate_.outputs + 16) / 16 * 16) {
    active = frame.take<int32_t>(each * threads);
  }
};

Neurons::Neurons(std::vector<float> norm, float eps, const Matrix& gate, const NeuronRows& up,
                 const NeuronRows& down, float threshold, float residual_scale)
    : norm_(std::move(norm)),
      eps_(eps),
      gate_(gate),
      up_(up),
      down_(down),
      threshold_(threshold),
      residual_scale_(residual_scale) {}

int Neurons::row(Team& team, const Room& room, uint16_t* h) const {
  const int neurons = gate_.outputs, width = down_.width;
  const Activations x = room.x.stage(
      team, [&](int64_t, float* out) { kernels().rms_norm(h, norm_.data(), eps_, gate_.inputs, out); });
  multiply(team, gate_, x, 1, {Finish::store, room.gate, neurons, 0}, room.unpacking);
  const auto mine = team.share(neurons);
  std::fill(room.inner + mine.first, room.inner + mine.last, 0.0f);
  team.barrier();
  int32_t* active = room.active + team.index * room.each;
  const int count = kernels().active_neurons(room.gate, neurons, threshold_, active);
  const auto part = team.share(count);
  kernels().neurons_up(up_, x, room.gate, active, static_cast<int>(part.first), static_cast<int>(part.last),
                       room.inner);
  team.barrier();
  const Activations inner = room.activated.stage(team, [&](int64_t, float* out) {
    std::memcpy(out, room.inner, static_cast<size_t>(neurons) * sizeof(float));
  });
  const auto columns = team.share((width + kColumns - 1) / kColumns);
  const int first = static_cast<int>(columns.first) * kColumns;
  const int last = std::min(static_cast<int>(columns.last) * kColumns, width);
  kernels().neurons_down(down_, inner, active, count, first, last, room.y);
  kernels().add_rounded(room.y + first, residual_scale_, last - first, h + first);
  return count;
}

void Neurons::run(Pool& pool, Scratch& scratch, uint16_t* h, int rows) {
  Frame measure;
  Room(measure, *this, pool.threads());
  const auto held = scratch.hold();
  Frame frame(scratch.take(measure.used()));
  const Room room(frame, *this, pool.threads());
  int64_t active = 0;
  pool.run([&](Team& team) {
    for (int i = 0; i < rows; i++) {
      if (i) team.barrier();  // the row before is no longer read
      const int count = row(team, room, h + static_cast<int64_t>(i) * down_.width);
      if (team.index == 0) active += count;
    }
  });
  active_ = active;
}

}  // namespace minicpm
