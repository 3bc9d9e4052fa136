// The compiled part of minicpm.ops.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bind/bind.hpp"
#include "kernels/table.hpp"

namespace minicpm {

namespace {

std::vector<std::string> instruction_sets() {
  const Kernels* found[8];
  std::vector<std::string> names;
  for (int i = 0, count = available(found, 8); i < count; i++) names.emplace_back(found[i]->name);
  return names;
}

}  // namespace

NB_MODULE(_native, module) {
  nb::set_leak_warnings(false);  // tensors that outlive the interpreter hold on to arenas, which is no fault
  module.doc() = "The compiled part of minicpm.ops.";
  module.def("build", [] { return std::string(MINICPM_VERSION ", " MINICPM_COMPILER ", " MINICPM_BUILD_TYPE); },
             "Version, compiler and build type in one line.");
  module.def("instruction_sets", instruction_sets,
             "Names of the kernels that were compiled and that this processor can run, best first.");
  module.def("instruction_set", [] { return std::string(kernels().name); }, "Name of the kernels in use.");
  module.def("choose", [](const std::string& name) { return choose_kernels(name.c_str()); }, nb::arg("name"),
             "Use the kernels of that name; False where this processor cannot run them.");
  bind_memory(module);
  bind_linear(module);
  bind_layers(module);
  bind_attention(module);
  bind_probe(module);
  bind_lightning(module);
  bind_latent(module);
  bind_neurons(module);
}

}  // namespace minicpm
