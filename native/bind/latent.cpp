// Latent attention.

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "bind/bind.hpp"
#include "ops/latent.hpp"

namespace minicpm {

namespace {

using Rows = std::tuple<Address, bool, int64_t>;                // data, whether bfloat16, numbers from token to token
using Part = std::tuple<int64_t, int64_t, int64_t, Address>;  // row, count, length, pages

std::vector<LatentSegment> segments_of(const std::vector<Part>& parts) {
  std::vector<LatentSegment> found;
  for (const auto& [row, count, length, pages] : parts) found.push_back({row, count, length, at<int32_t>(pages)});
  return found;
}

}  // namespace

void bind_latent(nb::module_& module) {
  nb::class_<Latent>(module, "Latent", "Attention over latents, queries moved into their space.")
      .def(
          "__init__",
          [](Latent* op, int heads, int nope, int rope, int value, int rank, Address u_k, Address u_v,
             int64_t stride) {
            new (op) Latent({heads, nope, rope, value, rank}, at<uint16_t>(u_k), at<uint16_t>(u_v), stride);
          },
          nb::arg("heads"), nb::arg("nope"), nb::arg("rope"), nb::arg("value"), nb::arg("rank"), nb::arg("u_k"),
          nb::arg("u_v"), nb::arg("stride"))
      .def(
          "run",
          [](const Latent& op, Pool& pool, Scratch& scratch, const Rows& q, Address latents, const Rows& out,
             const std::vector<Part>& segments) {
            const auto list = segments_of(segments);
            nb::gil_scoped_release released;
            const auto& [q_data, q_half, q_stride] = q;
            const auto& [out_data, out_half, out_stride] = out;
            op.run(pool, scratch, {at<void>(q_data), q_half, q_stride, op.shape().nope + op.shape().rope},
                   at<uint16_t>(latents), {at<void>(out_data), out_half, out_stride, op.shape().value}, list);
          },
          nb::arg("pool"), nb::arg("scratch"), nb::arg("q"), nb::arg("latents"), nb::arg("out"),
          nb::arg("segments"),
          "Rows are (address, whether bfloat16, numbers from token to token); segments are (first row, tokens, "
          "length of the sequence with them, address of its int32 pages or 0 where they lie in order).");
}

}  // namespace minicpm
