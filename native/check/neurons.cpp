#include "check/checks.hpp"
#include "check/staged.hpp"

namespace minicpm::check {

namespace {

struct Shape {
  Format format;
  int width, neurons, group;
};

constexpr Shape kShapes[] = {
    {Format::bf16, 64, 1, 0},   {Format::bf16, 100, 63, 0},   {Format::bf16, 256, 1000, 0},
    {Format::int8, 64, 96, 32}, {Format::int8, 128, 384, 128}, {Format::int8, 192, 960, 64},
};

constexpr float kThreshold = 0.25f;

// Random weights by neuron; they are read as up or as down.
struct Weights {
  Bytes codes;
  Halves halves, scales;
  NeuronRows rows;

  Weights(Random& random, const Shape& shape) {
    const int64_t count = int64_t{shape.width} * shape.neurons;
    if (shape.format == Format::bf16)
      halves = random.bf16(count);
    else
      codes = random.bytes(count), scales = random.scales(count / shape.group);
    const auto* data = halves.empty() ? codes.data() : reinterpret_cast<const uint8_t*>(halves.data());
    rows = {shape.format, shape.neurons, shape.width, shape.group, 0.5f, data, scales.data()};
  }
};

std::vector<int32_t> active_of(const Kernels& k, const Numbers& gates) {
  std::vector<int32_t> active(gates.size());
  const int count = k.active_neurons(gates.data(), static_cast<int>(gates.size()), kThreshold, active.data());
  active.resize(static_cast<size_t>(count));
  return active;
}

}  // namespace

void check_neurons(Comparison& comparison) {
  Random random;
  for (const Shape& shape : kShapes) {
    const int format = static_cast<int>(shape.format);
    const Weights up(random, shape), down(random, shape);
    const Numbers gates = random.normal(shape.neurons);
    const std::vector<int32_t> active = active_of(comparison.trusted(), gates);
    const int count = static_cast<int>(active.size());
    comparison.same("active_neurons", {shape.neurons}, kExact,
                    [&](const Kernels& k) { return numbers(active_of(k, gates)); });
    const Staged x(comparison.trusted(), random.normal(shape.width), shape.group);
    const auto inner = [&](const Kernels& k) {
      Numbers out(gates.size());
      k.neurons_up(up.rows, x.activations(), gates.data(), active.data(), 0, count, out.data());
      return out;
    };
    comparison.same("neurons_up", {format, shape.width, shape.neurons}, kSums, inner);
    const Staged activated(comparison.trusted(), inner(comparison.trusted()), shape.group);
    comparison.same("neurons_down", {format, shape.width, shape.neurons}, kSums, [&](const Kernels& k) {
      Numbers y(static_cast<size_t>(shape.width));
      k.neurons_down(down.rows, activated.activations(), active.data(), count, 0, shape.width, y.data());
      return y;
    });
  }
}

}  // namespace minicpm::check
