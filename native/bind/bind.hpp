// The parts of the Python module; each function adds the classes of one of them.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace minicpm {

namespace nb = nanobind;

// Memory that Python owns is passed by its address. Python has checked dtype, shape and contiguity.
using Address = uint64_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

void bind_memory(nb::module_& module);
void bind_linear(nb::module_& module);
void bind_layers(nb::module_& module);
void bind_attention(nb::module_& module);
void bind_probe(nb::module_& module);
void bind_lightning(nb::module_& module);
void bind_latent(nb::module_& module);
void bind_neurons(nb::module_& module);

}  // namespace minicpm
