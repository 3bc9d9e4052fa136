// Weights of a feed-forward by neuron, so that those of one neuron can be read alone.

#pragma once

#include <cstdint>

#include "core/matrix.hpp"

namespace minicpm {

// bf16: numbers [neurons][width]. int8: codes + 128 [neurons][width] and float16 scales; a weight is
// (code - 128) * scale * factor.
//
//   up    scales [neurons][width / group]: sums run along a neuron
//   down  scales [neurons / group][width]: sums run across neurons. Within 64 columns, code 16 i + 4 j + m is that
//         of column 16 j + 4 i + m, which is where four neurons' bytes end when they are interleaved.
struct NeuronRows {
  Format format;
  int32_t neurons, width;
  int32_t group;
  float factor;
  const uint8_t* data;
  const uint16_t* scales;

  int64_t row_bytes() const { return static_cast<int64_t>(width) * (format == Format::bf16 ? 2 : 1); }
  const uint8_t* row(int64_t neuron) const { return data + neuron * row_bytes(); }
  const uint16_t* half_row(int64_t neuron) const { return reinterpret_cast<const uint16_t*>(row(neuron)); }
};

}  // namespace minicpm
