// Lightning attention.

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "bind/bind.hpp"
#include "ops/lightning.hpp"

namespace minicpm {

namespace {

using Rows = std::tuple<Address, bool, int64_t>;                // data, whether bfloat16, numbers from token to token
using Span = std::tuple<Address, Address, int64_t, int32_t>;  // before, after, row, count

HeadRows head_rows(const Rows& rows, int width) {
  return {at<void>(std::get<0>(rows)), std::get<1>(rows), std::get<2>(rows), width};
}

std::vector<LightningSpan> spans_of(const std::vector<Span>& spans) {
  std::vector<LightningSpan> found;
  for (const auto& [before, after, row, count] : spans)
    found.push_back({row, count, at<float>(before), at<float>(after)});
  return found;
}

}  // namespace

void bind_lightning(nb::module_& module) {
  nb::class_<Lightning>(module, "Lightning", "Linear attention with a constant decay per head.")
      .def(
          "__init__",
          [](Lightning* op, Address slopes, int heads, int shared, float scale) {
            const float* p = at<float>(slopes);
            new (op) Lightning(std::vector<float>(p, p + heads), shared, scale);
          },
          nb::arg("slopes"), nb::arg("heads"), nb::arg("shared"), nb::arg("scale"))
      .def(
          "run",
          [](const Lightning& op, Pool& pool, Scratch& scratch, const Rows& q, const Rows& k, const Rows& v,
             const Rows& out, int keys, int values, const std::vector<Span>& spans) {
            const auto list = spans_of(spans);
            nb::gil_scoped_release released;
            op.run(pool, scratch, head_rows(q, keys), head_rows(k, keys), head_rows(v, values),
                   head_rows(out, values), list);
          },
          nb::arg("pool"), nb::arg("scratch"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"),
          nb::arg("keys"), nb::arg("values"), nb::arg("spans"),
          "Rows are (address, whether bfloat16, numbers from token to token); spans are (address of the state "
          "before or 0, address of the state after, first row, tokens).");
}

}  // namespace minicpm
