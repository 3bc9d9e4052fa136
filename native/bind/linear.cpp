// Packed matrices and what multiplies with them.

#include <nanobind/nanobind.h>

#include <algorithm>
#include <utility>

#include "bind/bind.hpp"
#include "core/arena.hpp"
#include "core/matrix.hpp"
#include "ops/linear.hpp"
#include "ops/pack.hpp"

namespace minicpm {

namespace {

Matrix describe(int format, int outputs, int inputs, int group, int shift, float factor, Address data) {
  return {static_cast<Format>(format), outputs, inputs, group, static_cast<Shift>(shift), factor, at<uint8_t>(data)};
}

// x float32 or bfloat16 [rows][inputs] times w.
void run_matmul(const Matrix& w, Pool& pool, Scratch& scratch, Address x, bool x_float, int rows,
                const Output& out) {
  const auto cut = [&](Frame& frame) {
    Inputs inputs(frame, w, rows, pool.threads());
    return std::make_pair(inputs, Unpacking(frame, w, pool.threads()));
  };
  Frame measure;
  cut(measure);
  const auto held = scratch.hold();
  Frame frame(scratch.take(measure.used()));
  const auto [inputs, unpacking] = cut(frame);
  const Inputs& in = inputs;
  const Unpacking& room = unpacking;
  pool.run([&](Team& team) {
    const Activations staged = in.stage(team, [&](int64_t row, float* numbers) {
      if (x_float)
        std::copy_n(at<float>(x) + row * w.inputs, w.inputs, numbers);
      else
        kernels().widen(at<uint16_t>(x) + row * w.inputs, numbers, w.inputs);
    });
    multiply(team, w, staged, rows, out, room);
  });
}

}  // namespace

void bind_linear(nb::module_& module) {
  module.def(
      "scale_factor", [](Address scales, int64_t count) { return scale_factor(at<float>(scales), count); },
      nb::arg("scales"), nb::arg("count"), "The power of two that brings these float32 scales into float16.");
  nb::class_<Matrix>(module, "Matrix", "A packed weight matrix somewhere in memory, which its maker keeps alive.")
      .def(
          "__init__",
          [](Matrix* m, int format, int outputs, int inputs, int group, int shift, float factor, Address data) {
            new (m) Matrix(describe(format, outputs, inputs, group, shift, factor, data));
          },
          nb::arg("format"), nb::arg("outputs"), nb::arg("inputs"), nb::arg("group"), nb::arg("shift"),
          nb::arg("factor"), nb::arg("data"))
      .def_static(
          "bytes_of",
          [](int format, int outputs, int inputs, int group, int shift) {
            return describe(format, outputs, inputs, group, shift, 1.0f, 0).bytes();
          },
          nb::arg("format"), nb::arg("outputs"), nb::arg("inputs"), nb::arg("group"), nb::arg("shift"),
          "Bytes that such a matrix takes.")
      .def_prop_ro("bits", &Matrix::bits, "Bits per code; 16 for bfloat16.")
      .def_prop_ro("nbytes", &Matrix::bytes, "Bytes of codes, scales and shifts.")
      .def(
          "pack",
          [](Matrix& m, Pool& pool, Address codes, int64_t stride, Address scales, Address zeros, Address offsets,
             int64_t groups, int group, Address order) {
            nb::gil_scoped_release released;
            const Rows rows = {at<uint8_t>(codes),  stride, at<float>(scales), at<uint8_t>(zeros),
                               at<float>(offsets), groups, group};
            pack(pool, m, const_cast<uint8_t*>(m.data), rows, at<int32_t>(order));
          },
          nb::arg("pool"), nb::arg("codes"), nb::arg("stride"), nb::arg("scales"), nb::arg("zeros"),
          nb::arg("offsets"), nb::arg("groups"), nb::arg("group"), nb::arg("order"))
      .def(
          "unpack",
          [](const Matrix& m, Pool& pool, Address order, Address rows) {
            nb::gil_scoped_release released;
            unpack(pool, m, at<int32_t>(order), at<float>(rows));
          },
          nb::arg("pool"), nb::arg("order"), nb::arg("rows"))
      .def(
          "gather",
          [](const Matrix& m, Address ids, int64_t count, Address out) {
            nb::gil_scoped_release released;
            gather(m, at<int64_t>(ids), count, at<uint16_t>(out));
          },
          nb::arg("ids"), nb::arg("count"), nb::arg("out"))
      .def(
          "matmul",
          [](const Matrix& w, Pool& pool, Scratch& scratch, Address x, bool x_float, int rows, Address out,
             int finish, int64_t stride, float scale) {
            nb::gil_scoped_release released;
            run_matmul(w, pool, scratch, x, x_float, rows, {static_cast<Finish>(finish), at<void>(out), stride, scale});
          },
          nb::arg("pool"), nb::arg("scratch"), nb::arg("x"), nb::arg("x_float"), nb::arg("rows"), nb::arg("out"),
          nb::arg("finish"), nb::arg("stride"), nb::arg("scale"));
}

}  // namespace minicpm
