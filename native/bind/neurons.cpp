// The feed-forward of active neurons.

#include <nanobind/nanobind.h>

#include <vector>

#include "bind/bind.hpp"
#include "ops/neurons.hpp"

namespace minicpm {

void bind_neurons(nb::module_& module) {
  nb::class_<NeuronRows>(module, "NeuronRows", "Weights by neuron somewhere in memory, which their maker keeps alive.")
      .def(
          "__init__",
          [](NeuronRows* rows, int format, int neurons, int width, int group, float factor, Address data,
             Address scales) {
            new (rows) NeuronRows{static_cast<Format>(format), neurons, width, group, factor, at<uint8_t>(data),
                                  at<uint16_t>(scales)};
          },
          nb::arg("format"), nb::arg("neurons"), nb::arg("width"), nb::arg("group"), nb::arg("factor"),
          nb::arg("data"), nb::arg("scales"));
  nb::class_<Neurons>(module, "Neurons", "Norm, gate, and up and down of active neurons, and residual in one call.")
      .def(
          "__init__",
          [](Neurons* op, Address norm, float eps, const Matrix& gate, const NeuronRows& up, const NeuronRows& down,
             float threshold, float residual_scale) {
            const float* p = at<float>(norm);
            new (op) Neurons(std::vector<float>(p, p + gate.inputs), eps, gate, up, down, threshold, residual_scale);
          },
          nb::arg("norm"), nb::arg("eps"), nb::arg("gate"), nb::arg("up"), nb::arg("down"), nb::arg("threshold"),
          nb::arg("residual_scale"))
      .def(
          "run",
          [](Neurons& op, Pool& pool, Scratch& scratch, Address h, int rows) {
            nb::gil_scoped_release released;
            op.run(pool, scratch, at<uint16_t>(h), rows);
          },
          nb::arg("pool"), nb::arg("scratch"), nb::arg("h"), nb::arg("rows"), "Adds to bfloat16 rows in place.")
      .def_prop_ro("active", &Neurons::active, "Neurons active in the last run, in all of its rows together.");
}

}  // namespace minicpm
