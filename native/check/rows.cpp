#include <cmath>

#include "check/checks.hpp"

namespace minicpm::check {

void check_rows(Comparison& comparison) {
  Random random;
  for (const int n : {1, 15, 16, 63, 64, 65, 1000}) {
    const Numbers x = random.normal(n), y = random.normal(n), z = random.normal(2 * n);
    Numbers ties = random.ties(n);
    ties[0] = n % 2 ? NAN : -INFINITY;
    const Halves h = random.bf16(n);
    comparison.same("widen", {n}, kExact, [&](const Kernels& k) {
      Numbers out(x.size());
      k.widen(h.data(), out.data(), n);
      return out;
    });
    comparison.same("narrow", {n}, kExact, [&](const Kernels& k) {
      Halves out(x.size());
      k.narrow(ties.data(), out.data(), n);
      return widened(out);
    });
    comparison.same("rms_norm", {n}, kRounded, [&](const Kernels& k) {
      Numbers out(x.size());
      k.rms_norm(h.data(), y.data(), 1e-5f, n, out.data());
      return out;
    });
    comparison.same("rotate", {n}, kSums, [&](const Kernels& k) {
      Numbers out = z;
      k.rotate(out.data(), x.data(), y.data(), n);
      return out;
    });
    comparison.same("gate", {n}, kSums, [&](const Kernels& k) {
      Numbers out = x;
      k.gate(out.data(), y.data(), n);
      return out;
    });
    comparison.same("add_rounded", {n}, kRounded, [&](const Kernels& k) {
      Halves out = h;
      k.add_rounded(x.data(), 0.25f, n, out.data());
      return widened(out);
    });
  }
}

}  // namespace minicpm::check
