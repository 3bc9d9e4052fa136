#include <cmath>

#include "check/checks.hpp"

namespace minicpm::check {

namespace {

constexpr int kHeads = 2, kHead = 1;

struct Shape {
  int keys, values;
  bool half;
};

constexpr Shape kShapes[] = {{16, 16, false}, {64, 48, true}, {128, 128, false}, {128, 128, true}, {256, 80, false}};

// Rows [tokens][2 heads][width] in either format.
struct Rows {
  Numbers wide;
  Halves narrow;
  int width;

  Rows(Random& random, int tokens, int width)
      : wide(random.normal(int64_t{tokens} * kHeads * width)), narrow(random.bf16(int64_t{tokens} * kHeads * width)),
        width(width) {}

  HeadRows rows(bool half) {
    return {half ? static_cast<void*>(narrow.data()) : wide.data(), half, int64_t{kHeads} * width, width};
  }
};

void check_span(Comparison& comparison, Random& random, const Shape& shape, int count, bool past) {
  Rows q(random, count, shape.keys), k(random, count, shape.keys), v(random, count, shape.values);
  const Numbers before = random.normal(int64_t{shape.keys} * shape.values);
  Numbers powers;
  for (int n = 0; n <= kChunk; n++) powers.push_back(std::pow(0.95f, static_cast<float>(n)));
  const auto run = [&](const Kernels& kernels, bool chunk) {
    Random same;
    Rows out(same, count, shape.values);
    Numbers after(before.size());
    const LightningHead head = {q.rows(shape.half), k.rows(shape.half), v.rows(shape.half), out.rows(shape.half),
                                kHead, kHead, powers.data(), 0.125f};
    const LightningSpan span = {0, count, past ? before.data() : nullptr, after.data()};
    Numbers scratch(static_cast<size_t>(lightning_scratch(shape.keys, shape.values)));
    if (chunk)
      kernels.lightning_chunk(head, span, scratch.data());
    else
      kernels.lightning_step(head, span);
    return joined(shape.half ? widened(out.narrow) : out.wide, after);
  };
  const Tolerance& tolerance = shape.half ? kRounded : kSums;
  comparison.same("lightning_chunk", {shape.keys, shape.values, shape.half, count, past}, tolerance,
                  [&](const Kernels& kernels) { return run(kernels, true); });
  if (count == 1)
    comparison.same("lightning_step", {shape.keys, shape.values, shape.half, past}, tolerance,
                    [&](const Kernels& kernels) { return run(kernels, false); });
}

}  // namespace

void check_lightning(Comparison& comparison) {
  Random random;
  for (const Shape& shape : kShapes)
    for (const int count : {1, 3, 16, 63, 64})
      for (const bool past : {false, true}) check_span(comparison, random, shape, count, past);
}

}  // namespace minicpm::check
