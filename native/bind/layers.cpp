// Halves of a block in one call each, and what all of them share in one forward.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <vector>

#include "bind/bind.hpp"
#include "ops/attention_layer.hpp"
#include "ops/mlp.hpp"
#include "ops/stack.hpp"

namespace minicpm {

namespace {

std::vector<float> floats(Address address, int64_t count) {
  const float* p = at<float>(address);
  return {p, p + count};
}

void bind_step(nb::module_& module) {
  nb::class_<Step>(module, "Step", "Rotary angles and segments of one forward; its maker keeps both alive.")
      .def(
          "__init__",
          [](Step* step, int rows, Address cos, Address sin, int half) {
            new (step) Step{rows, at<float>(cos), at<float>(sin), half, {}};
          },
          nb::arg("rows"), nb::arg("cos"), nb::arg("sin"), nb::arg("half"))
      .def(
          "add",
          [](Step& step, int64_t start, int count, Address pages) {
            const int32_t row = step.segments.empty() ? 0 : step.segments.back().row + step.segments.back().count;
            step.segments.push_back({start, count, row, at<int32_t>(pages)});
          },
          nb::arg("start"), nb::arg("count"), nb::arg("pages"), "The next segment and the pages of its sequence.");
}

void bind_mlp(nb::module_& module) {
  nb::class_<Mlp>(module, "Mlp", "Norm, gate and up, activation, down and residual.")
      .def(
          "__init__",
          [](Mlp* mlp, Address norm, float eps, const Matrix& gate_up, const Matrix& down, int act, float threshold,
             float residual_scale) {
            new (mlp) Mlp(floats(norm, gate_up.inputs), eps, gate_up, down, static_cast<Finish>(act), threshold,
                          residual_scale);
          },
          nb::arg("norm"), nb::arg("eps"), nb::arg("gate_up"), nb::arg("down"), nb::arg("act"), nb::arg("threshold"),
          nb::arg("residual_scale"))
      .def(
          "run",
          [](const Mlp& mlp, Pool& pool, Scratch& scratch, Address h, int rows) {
            nb::gil_scoped_release released;
            mlp.run(pool, scratch, at<uint16_t>(h), rows);
          },
          nb::arg("pool"), nb::arg("scratch"), nb::arg("h"), nb::arg("rows"));
}

void bind_attention_layer(nb::module_& module) {
  nb::class_<SparseRule>(module, "SparseRule", "Which blocks a query attends to.")
      .def(
          "__init__",
          [](SparseRule* rule, int kernel_size, int kernel_stride, int init_blocks, int local_blocks,
             int chosen_blocks, int64_t dense) {
            new (rule) SparseRule{kernel_size, kernel_stride, init_blocks, local_blocks, chosen_blocks, dense};
          },
          nb::arg("kernel_size"), nb::arg("kernel_stride"), nb::arg("init_blocks"), nb::arg("local_blocks"),
          nb::arg("chosen_blocks"), nb::arg("dense"));
  nb::class_<AttentionLayer>(module, "AttentionLayer", "Norm, products, rotation, cache, attention and residual.")
      .def(
          "__init__",
          [](AttentionLayer* layer, Address norm, float eps, int heads, int kv_heads, int width, bool rotary,
             const Matrix& qkv, const Matrix& output, std::optional<Matrix> gate, std::optional<SparseRule> rule,
             float residual_scale) {
            new (layer) AttentionLayer(floats(norm, qkv.inputs), eps, {heads, kv_heads, width, rotary}, qkv, output,
                                       gate, rule, residual_scale);
          },
          nb::arg("norm"), nb::arg("eps"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("width"),
          nb::arg("rotary"), nb::arg("qkv"), nb::arg("output"), nb::arg("gate").none(), nb::arg("rule").none(),
          nb::arg("residual_scale"))
      .def(
          "run",
          [](const AttentionLayer& layer, Pool& pool, Scratch& scratch, Address h, const Step& step,
             const KvPages& kv, Address compressed) {
            nb::gil_scoped_release released;
            layer.run(pool, scratch, at<uint16_t>(h), step, kv, at<uint16_t>(compressed));
          },
          nb::arg("pool"), nb::arg("scratch"), nb::arg("h"), nb::arg("step"), nb::arg("kv"), nb::arg("compressed"));
}

void bind_stack(nb::module_& module) {
  nb::class_<Stack>(module, "Stack", "The native halves of consecutive blocks, run in one call.")
      .def(nb::init<>())
      .def(
          "attend",
          [](Stack& stack, const AttentionLayer& attention, const KvPages& kv, Address compressed) {
            stack.attend(attention, kv, at<uint16_t>(compressed));
          },
          nb::keep_alive<1, 2>(), nb::arg("attention"), nb::arg("kv"), nb::arg("compressed"),
          "Copies what the pages' handle knows; who made them keeps them alive.")
      .def("feed", &Stack::feed, nb::keep_alive<1, 2>(), nb::arg("mlp"))
      .def("feed_active", &Stack::feed_active, nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::arg("mlp"),
           nb::arg("neurons"), nb::arg("rows"))
      .def(
          "run",
          [](const Stack& stack, Pool& pool, Scratch& scratch, Address h, const Step& step) {
            nb::gil_scoped_release released;
            stack.run(pool, scratch, at<uint16_t>(h), step);
          },
          nb::arg("pool"), nb::arg("scratch"), nb::arg("h"), nb::arg("step"));
}

}  // namespace

void bind_layers(nb::module_& module) {
  bind_step(module);
  bind_mlp(module);
  bind_attention_layer(module);
  bind_stack(module);
}

}  // namespace minicpm
