#include "check/checks.hpp"

namespace minicpm::check {

void check_probes(Comparison& comparison) {
  Random random;
  const int64_t steps = 100;
  const Bytes data = random.bytes(256 * 63);
  comparison.same("probe_read", {256 * 63}, kExact, [&](const Kernels& k) {
    return Numbers{static_cast<float>(k.probe_read(data.data(), 256 * 63))};
  });
  // Every lane of every sum holds the same number.
  comparison.same("probe_float", {steps}, kSums, [&](const Kernels& k) {
    const float factors[] = {0.5f, 1.25f};
    float out = 0;
    const int64_t operations = k.probe_float(factors, steps, &out);
    return Numbers{out * static_cast<float>(2 * steps) / static_cast<float>(operations)};
  });
  Bytes codes = random.bytes(1024);
  for (uint8_t& code : codes) code &= 127;
  const std::vector<int8_t> numbers = random.codes(1024);
  comparison.holds("probe_int8", {steps}, [&](const Kernels& k) {
    int32_t out = 0;
    const int64_t operations = k.probe_int8(codes.data(), numbers.data(), steps, &out);
    return operations > 0 && operations % (2 * steps) == 0;
  });
}

}  // namespace minicpm::check
