// Compares every instruction set that this processor has with the portable one.

#include <cstdio>

#include "check/checks.hpp"

namespace minicpm::check {

static int failures_of(const Kernels& tested, const Kernels& trusted) {
  Comparison comparison(tested, trusted);
  for (const auto check : {check_rows, check_products, check_attention, check_sparse, check_lightning, check_latent,
                           check_neurons, check_probes})
    check(comparison);
  std::printf("%s: %d comparisons, %d failed\n", tested.name, comparison.comparisons(), comparison.failures());
  return comparison.failures();
}

}  // namespace minicpm::check

int main() {
  const minicpm::Kernels* found[8];
  const int count = minicpm::available(found, 8);
  const minicpm::Kernels& portable = *found[count - 1];
  if (count == 1) std::printf("%s: all this processor has, so nothing is compared\n", portable.name);
  int failures = 0;
  for (int i = 0; i + 1 < count; i++) failures += minicpm::check::failures_of(*found[i], portable);
  return failures > 0;
}
