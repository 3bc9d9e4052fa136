// Threads and memory.

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.hpp"
#include "core/arena.hpp"
#include "core/pool.hpp"

namespace minicpm {

void bind_memory(nb::module_& module) {
  module.def("physical_cores", &physical_cores,
             "Processors this process may use, one per physical core where the system tells.");
  nb::class_<Pool>(module, "Pool", "Threads that stay; operators run on all of them.")
      .def(nb::init<int, bool>(), nb::arg("threads"), nb::arg("pin"))
      .def_prop_ro("threads", &Pool::threads, "How many, the caller included.");
  nb::class_<Arena>(module, "Arena", "Memory for weights, given back when the arena and all that lies in it die.")
      .def(nb::init<>())
      .def("take", [](Arena& arena, size_t bytes) { return reinterpret_cast<Address>(arena.take(bytes)); },
           nb::arg("bytes"), "Address of so many zeroed bytes.")
      .def_prop_ro("used", &Arena::used, "Bytes handed out.");
  nb::class_<Scratch>(module, "Scratch", "Memory that operators work in, one call at a time.")
      .def(nb::init<>())
      .def_prop_ro("nbytes", &Scratch::bytes, "Bytes held.");
}

}  // namespace minicpm
