#include <cstring>

#include "check/checks.hpp"
#include "check/staged.hpp"

namespace minicpm::check {

namespace {

struct Shape {
  Format format;
  int outputs, inputs, group;
  Shift shift;
};

constexpr Shape kShapes[] = {
    {Format::bf16, 1, 2, 2, Shift::middle},        {Format::bf16, 64, 62, 62, Shift::middle},
    {Format::bf16, 65, 1000, 1000, Shift::middle}, {Format::int8, 63, 32, 32, Shift::middle},
    {Format::int8, 64, 1024, 128, Shift::zeros},   {Format::int8, 65, 48, 16, Shift::offsets},
    {Format::int4, 64, 64, 64, Shift::middle},     {Format::int4, 65, 960, 64, Shift::zeros},
    {Format::int4, 1, 1024, 128, Shift::offsets},  {Format::int4, 63, 1008, 16, Shift::middle},
    {Format::int2, 64, 32, 32, Shift::zeros},      {Format::int2, 65, 1024, 128, Shift::middle},
    {Format::int2, 63, 192, 64, Shift::middle},    {Format::int2, 64, 80, 16, Shift::offsets},
};

Bytes weights(Random& random, const Matrix& w) {
  if (w.format == Format::bf16) {
    const Halves halves = random.bf16(w.bytes() / 2);
    const auto* bytes = reinterpret_cast<const uint8_t*>(halves.data());
    return Bytes(bytes, bytes + w.bytes());
  }
  Bytes data = random.bytes(w.bytes());
  const int64_t codes = static_cast<int64_t>(w.group) * w.bits() / 8 * kPanel;
  for (int64_t at = 0; at < w.bytes(); at += w.group_bytes()) {
    const Halves halves = random.scales(w.shift == Shift::offsets ? 2 * kPanel : kPanel);
    std::memcpy(data.data() + at + codes, halves.data(), 2 * halves.size());
  }
  return data;
}

bool halves_outputs(Finish finish) { return finish == Finish::swiglu || finish == Finish::fatrelu; }
bool rounds(Finish finish) { return finish == Finish::round || finish == Finish::residual; }

void check_product(Comparison& comparison, Random& random, const Shape& shape, int rows, Finish finish) {
  Matrix w = {shape.format, shape.outputs, shape.inputs, shape.group, shape.shift, 0.5f, nullptr};
  const Bytes data = weights(random, w);
  w.data = data.data();
  const Staged x(comparison.trusted(), random.normal(int64_t{rows} * w.inputs),
                 w.format == Format::bf16 ? 0 : w.group);
  const int width = halves_outputs(finish) ? shape.outputs / 2 : shape.outputs;
  const Halves before = random.bf16(int64_t{rows} * width);
  const auto product = [&](const Kernels& k) {
    Numbers out(before.size());
    Halves rounded = before;
    Bytes scratch(static_cast<size_t>(matmul_scratch(w)));
    void* to = rounds(finish) ? static_cast<void*>(rounded.data()) : out.data();
    k.matmul(w, x.activations(), rows, 0, w.panels(), {finish, to, width, 0.25f}, scratch.data());
    return rounds(finish) ? widened(rounded) : out;
  };
  comparison.same(
      "matmul",
      {static_cast<int>(shape.format), shape.outputs, shape.inputs, rows, static_cast<int>(finish)},
      rounds(finish) ? kRounded : kSums, product);
}

}  // namespace

void check_products(Comparison& comparison) {
  Random random;
  for (const int group : {16, 32, 64, 128}) {
    const Numbers x = joined(random.normal(8 * group), Numbers(static_cast<size_t>(group)));
    comparison.same("quantize", {group}, kExact, [&](const Kernels& k) { return Staged(k, x, group).quantized(); });
  }
  for (const Shape& shape : kShapes)
    for (const int rows : {1, 2, 3, 5, 13, 65})
      for (const Finish finish : {Finish::store, Finish::round, Finish::residual, Finish::swiglu, Finish::fatrelu})
        if (!halves_outputs(finish) || shape.outputs % kPanel == 0)
          check_product(comparison, random, shape, rows, finish);
}

}  // namespace minicpm::check
