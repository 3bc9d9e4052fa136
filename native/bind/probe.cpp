// What this machine can do at most, measured.

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bind/bind.hpp"
#include "ops/probe.hpp"

namespace minicpm {

void bind_probe(nb::module_& module) {
  module.def(
      "read_bandwidth",
      [](Pool& pool, int64_t bytes, int passes) {
        nb::gil_scoped_release released;
        return read_bandwidth(pool, bytes, passes);
      },
      nb::arg("pool"), nb::arg("bytes"), nb::arg("passes"),
      "Bytes per second that all threads together read, for each of some passes over fresh memory.");
  module.def(
      "peak_float",
      [](Pool& pool, int passes) {
        nb::gil_scoped_release released;
        return peak_float(pool, passes);
      },
      nb::arg("pool"), nb::arg("passes"), "Operations per second on float32, a multiply-add being two.");
  module.def(
      "peak_int8",
      [](Pool& pool, int passes) {
        nb::gil_scoped_release released;
        return peak_int8(pool, passes);
      },
      nb::arg("pool"), nb::arg("passes"), "Operations per second on bytes, a multiply-add being two.");
}

}  // namespace minicpm
