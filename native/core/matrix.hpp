// How a weight matrix lies in memory for the kernels.
//
// Outputs are grouped in panels of 32, two blocks of 16. Along the inputs a panel is cut into groups of `group`
// columns (bf16 is one group), each its codes and then its scales:
//
//   codes    for every few columns first the bytes of block 0, then of block 1, 64 bytes each; lane r of 16 is one
//            output and holds four bytes (bf16: two numbers of two bytes)
//     bf16   columns k, k+1
//     int8   columns k .. k+3, each code + 128
//     int4   columns k .. k+3 in the low half of each byte, k+4 .. k+7 in the high half
//     int2   columns k .. k+3 in the lowest two bits, k+4 .. k+7 in the next two, and so on up to k+15
//   scales   32 float16, one per output; not for bf16
//   shifts   32 unsigned bytes or 32 float16, one per output, where the matrix has zeros or offsets
//
// A weight is (code - zero) * scale * factor, where zero is 128, 8 or 2 unless the matrix has its own, and
// (code * scale + offset) * factor where it has offsets.

#pragma once

#include <cstddef>
#include <cstdint>

namespace minicpm {

constexpr int kPanel = 32;
constexpr int kBlock = 16;

enum class Format : int32_t { bf16 = 0, int8 = 1, int4 = 2, int2 = 3 };

// What turns codes, which are unsigned, into numbers around zero.
enum class Shift : int32_t { middle = 0, zeros = 1, offsets = 2 };

struct Matrix {
  Format format;
  int32_t outputs;  // without those that fill the last panel
  int32_t inputs;
  int32_t group;   // columns per scale: 16, 32, 64 or 128; `inputs` for bf16
  Shift shift;
  float factor;    // of all scales, so that they fit float16
  const uint8_t* data;

  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
  int bits() const { return format == Format::bf16 ? 16 : 8 >> (static_cast<int>(format) - 1); }
  int64_t group_bytes() const {
    return static_cast<int64_t>(group) * bits() / 8 * kPanel +
           (format == Format::bf16 ? 0 : 2 * kPanel + static_cast<int>(shift) * kPanel);
  }
  int64_t panel_bytes() const { return inputs / group * group_bytes(); }
  int64_t bytes() const { return panels() * panel_bytes(); }
  int zero() const {
    if (shift == Shift::offsets) return 0;
    return format == Format::int8 ? 128 : format == Format::int4 ? 8 : 2;
  }
};

// Rows that a matrix is multiplied with, as its format wants them: float32 [rows][inputs] for bf16; else signed
// bytes [rows][inputs] with, per row and group of the matrix, a scale and the sum of the bytes.
struct Activations {
  const float* numbers;
  const int8_t* codes;
  const float* scales;
  const int32_t* sums;
};

// What becomes of the sums of a panel, the last step of a product.
enum class Finish : int32_t {
  store = 0,     // float32 [rows][stride]
  round = 1,     // bfloat16 [rows][stride]
  residual = 2,  // bfloat16 [rows][stride] += scale * sum
  swiglu = 3,    // float32 [rows][stride], 16 per panel: silu(block 0) * block 1
  fatrelu = 4,   // the same with block 0 where it is above `scale`, else 0
};

struct Output {
  Finish finish;
  void* data;
  int64_t stride;
  float scale;
};

}  // namespace minicpm
