#include "ops/pack.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace minicpm {

namespace {

uint16_t to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 6.103515625e-05f)  // subnormal: multiples of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(magnitude * 16777216.0f)));
  const uint32_t exponent = ((bits >> 23) & 0xff) - 112;
  const uint32_t mantissa = bits & 0x7fffff;
  uint32_t half = (exponent << 10) | (mantissa >> 13);
  const uint32_t rest = mantissa & 0x1fff;
  half += rest > 0x1000 || (rest == 0x1000 && (half & 1));
  return static_cast<uint16_t>(sign | half);
}

float from_half(uint16_t half) {
  const int exponent = (half >> 10) & 31, mantissa = half & 0x3ff;
  const float magnitude = exponent ? std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25)
                                   : std::ldexp(static_cast<float>(mantissa), -24);
  return half & 0x8000 ? -magnitude : magnitude;
}

float from_bf16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Where the code of one output of a panel and one column of a group lies: its byte among the group's codes, and how
// far up in it.
struct Place {
  int64_t byte;
  int shift;
};

Place place(const Matrix& m, int output, int column) {
  const int block = output / kBlock, lane = output % kBlock;
  if (m.format == Format::bf16) return {column / 2 * 128 + block * 64 + lane * 4 + column % 2 * 2, 0};
  const int fields = 8 / m.bits();
  const int chunk = column / (4 * fields), within = column % (4 * fields);
  return {static_cast<int64_t>(chunk) * 128 + block * 64 + lane * 4 + within % 4, within / 4 * m.bits()};
}

int code_of(const Rows& rows, int64_t row, int64_t column, int bits) {
  const int64_t bit = column * bits;
  return rows.codes[row * rows.stride + bit / 8] >> (bit % 8) & ((1 << bits) - 1);
}

// The zero or offset of one output; `source` is below 0 for an output without a row.
void pack_shift(const Matrix& m, uint8_t* shifts, int output, const Rows& rows, int64_t source) {
  if (m.shift == Shift::zeros) shifts[output] = source < 0 ? 0 : rows.zeros[source];
  if (m.shift != Shift::offsets) return;
  const uint16_t half = to_half(source < 0 ? 0.0f : rows.offsets[source] / m.factor);
  std::memcpy(shifts + 2 * output, &half, 2);
}

void pack_output(const Matrix& m, uint8_t* panel, int output, const Rows& rows, int64_t row) {
  const int64_t code_bytes = static_cast<int64_t>(m.group) * m.bits() / 8 * kPanel;
  for (int64_t g = 0; g < m.inputs / m.group; g++) {
    uint8_t* group = panel + g * m.group_bytes();
    if (m.format == Format::bf16) {
      for (int k = 0; k < m.group; k++)
        if (row >= 0) std::memcpy(group + place(m, output, k).byte, rows.codes + row * rows.stride + 2 * k, 2);
      continue;
    }
    const int64_t source = row * rows.groups + g * m.group / rows.group;
    const float scale = row < 0 ? 0.0f : rows.scales[source] / m.factor;
    const uint16_t half = to_half(scale);
    std::memcpy(group + code_bytes + 2 * output, &half, 2);
    pack_shift(m, group + code_bytes + 2 * kPanel, output, rows, row < 0 ? -1 : source);
    for (int k = 0; k < m.group; k++) {
      const Place at = place(m, output, k);
      const int code = row < 0 ? (m.shift == Shift::zeros ? 0 : m.zero()) : code_of(rows, row, g * m.group + k, m.bits());
      group[at.byte] = static_cast<uint8_t>(group[at.byte] | code << at.shift);
    }
  }
}

}  // namespace

float scale_factor(const float* scales, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) most = std::fmax(most, std::fabs(scales[i]));
  return most > 0 ? std::ldexp(1.0f, std::ilogb(most) - 14) : 1.0f;
}

void pack(Pool& pool, const Matrix& matrix, uint8_t* data, const Rows& rows, const int32_t* order) {
  pool.run([&](Team& team) {
    const auto range = team.share(matrix.panels());
    for (int64_t number = range.first; number < range.last; number++) {
      uint8_t* panel = data + number * matrix.panel_bytes();
      const int32_t* outputs = order + number * kPanel;
      if (std::find(outputs, outputs + kPanel, kKept) == outputs + kPanel)
        std::memset(panel, 0, static_cast<size_t>(matrix.panel_bytes()));
      for (int output = 0; output < kPanel; output++)
        if (outputs[output] != kKept) pack_output(matrix, panel, output, rows, order[number * kPanel + output]);
    }
  });
}

namespace {

// The weight of one output slot and column.
float weight_at(const Matrix& m, int64_t slot, int64_t column) {
  const int output = static_cast<int>(slot % kPanel);
  const uint8_t* group = m.data + slot / kPanel * m.panel_bytes() + column / m.group * m.group_bytes();
  const Place at = place(m, output, static_cast<int>(column % m.group));
  uint16_t half;
  if (m.format == Format::bf16) {
    std::memcpy(&half, group + at.byte, 2);
    return from_bf16(half);
  }
  const int64_t code_bytes = static_cast<int64_t>(m.group) * m.bits() / 8 * kPanel;
  std::memcpy(&half, group + code_bytes + 2 * output, 2);
  const int code = group[at.byte] >> at.shift & ((1 << m.bits()) - 1);
  const uint8_t* shifts = group + code_bytes + 2 * kPanel;
  float offset = 0;
  if (m.shift == Shift::offsets) {
    uint16_t bits;
    std::memcpy(&bits, shifts + 2 * output, 2);
    offset = from_half(bits);
  }
  const int zero = m.shift == Shift::zeros ? shifts[output] : m.zero();
  return (static_cast<float>(code - zero) * from_half(half) + offset) * m.factor;
}

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

void unpack(Pool& pool, const Matrix& m, const int32_t* order, float* rows) {
  pool.run([&](Team& team) {
    const auto range = team.share(m.panels() * kPanel);
    for (int64_t slot = range.first; slot < range.last; slot++) {
      const int64_t row = order[slot];
      if (row < 0) continue;
      for (int64_t column = 0; column < m.inputs; column++)
        rows[row * m.inputs + column] = weight_at(m, slot, column);
    }
  });
}

void gather(const Matrix& m, const int64_t* ids, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t column = 0; column < m.inputs; column++)
      out[i * m.inputs + column] = to_bf16(weight_at(m, ids[i], column));
}

}  // namespace minicpm
