// Products with packed matrices: one row for decoding, many for prefill.
//
// A tile is up to kTileRows rows by one panel; its integer sums are kept in registers over a group of columns and
// then scaled into float32 sums in memory. Many rows share one unpacking of a panel's codes into bytes.

#pragma once

#include "core/matrix.hpp"
#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

// Rows of activations that stay in the second-level cache while panels pass by, and the most of them, whose sums do.
constexpr int64_t kRowBytes = 768 << 10;
constexpr int64_t kMostRows = 192;
// Bytes of a panel that stay in the first-level cache while rows pass by.
constexpr int64_t kDepthBytes = 16 << 10;
// From this many rows on codes are unpacked once into memory.
constexpr int kUnpackRows = kTileRows + 1;

static void quantize(const float* x, int inputs, int group, int8_t* codes, float* scales, int32_t* sums) {
  for (int g = 0; g < inputs / group; g++, x += group, codes += group) {
    f32x16 peak = {};
    for (int k = 0; k < group; k += kLanes) peak = max(peak, abs(load(x + k)));
    const float most = largest(peak);
    const f32x16 inverse = set(most > 0 ? 127.0f / most : 0.0f);
    i32x16 total = {};
    for (int k = 0; k < group; k += kLanes) {
      const i32x16 rounded = to_int(round_even(load(x + k) * inverse));
      total += rounded;
      const auto bytes = __builtin_convertvector(rounded, int8_t __attribute__((vector_size(16))));
      memcpy(codes + k, &bytes, sizeof bytes);
    }
    int32_t parts[16], all = 0;
    memcpy(parts, &total, sizeof parts);
    for (int part : parts) all += part;
    scales[g] = most / 127.0f;
    sums[g] = all;
  }
}

// ---- codes of a few columns as bytes ----

// `fields` runs of four columns lie in each byte, `bits` apart.
template <Format format>
struct Packing {
  static constexpr int bits = format == Format::int8 ? 8 : format == Format::int4 ? 4 : 2;
  static constexpr int fields = 8 / bits;
  static constexpr int columns = 4 * fields;  // of one pair of 64 bytes
};

template <Format format>
MC_INLINE u8x64 field(u8x64 packed, int index) {
  if constexpr (format == Format::int8) return packed;
  constexpr int bits = Packing<format>::bits;
  return low_bits(index ? shift_right(packed, bits * index) : packed, bits);
}

// ---- the sums of a group ----

// Where a group's codes are read from: packed, or unpacked bytes [group / 4][2][64].
template <Format format, bool unpacked>
struct Codes {
  static constexpr int fields = unpacked ? 1 : Packing<format>::fields;

  static inline __attribute__((always_inline)) u8x64 get(u8x64 packed, int index) {
    if constexpr (unpacked) return packed;
    return field<format>(packed, index);
  }
};

// A group of a matrix and the same columns of some rows.
struct Group {
  const uint8_t* codes;
  const uint16_t* scales;
  const uint8_t* zeros;     // null where all outputs have the format's own
  const uint16_t* offsets;  // null where there are none
  const int8_t* x;       // rows `inputs` apart
  const float* x_scales; // and these `groups` apart
  const int32_t* x_sums;
  int64_t inputs, groups;
  int columns, zero;
};

// float16 per output times the sum of a row's bytes, added to sums [32] with its scale.
MC_INLINE void add_offsets(const uint16_t* offsets, float x_sum, float* sums) {
  const f32x16 sum = set(x_sum);
  store(sums, fma(load_f16(offsets), sum, load(sums)));
  store(sums + kBlock, fma(load_f16(offsets + kBlock), sum, load(sums + kBlock)));
}

MC_INLINE i32x16 load_zeros(const uint8_t* p) {
  uint8_t __attribute__((vector_size(16))) bytes;
  memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, i32x16);
}

// Adds to sums [rows][32] the products of one group.
template <int rows, Format format, bool unpacked>
__attribute__((noinline)) static void group_sums(const Group& group, float* sums) {
  using Source = Codes<format, unpacked>;
  const int8_t* x = group.x;
  const int64_t inputs = group.inputs, groups = group.groups;
  i32x16 a[rows], b[rows];
  // Codes are unsigned, so the zeros' share is taken off beforehand.
  if (group.zeros) {
    const i32x16 z0 = load_zeros(group.zeros), z1 = load_zeros(group.zeros + kBlock);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const i32x16 sum = set_int(-group.x_sums[m * groups]);
      a[m] = sum * z0, b[m] = sum * z1;
    }
  } else {
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) a[m] = b[m] = set_int(-group.zero * group.x_sums[m * groups]);
  }
  const uint8_t* p = group.codes;
  for (int k = 0; k < group.columns; k += 4 * Source::fields, p += 128) {
    const u8x64 packed0 = load_bytes(p), packed1 = load_bytes(p + 64);
    if constexpr (rows == 1) prefetch(p + 2048), prefetch(p + 2112);
#pragma GCC unroll 4
    for (int f = 0; f < Source::fields; f++) {
      const u8x64 w0 = Source::get(packed0, f), w1 = Source::get(packed1, f);
#pragma GCC unroll 16
      for (int m = 0; m < rows; m++) {
        const i32x16 quad = load_quad(x + m * inputs + k + 4 * f);
        a[m] = dot(a[m], w0, quad);
        b[m] = dot(b[m], w1, quad);
      }
    }
  }
  const f32x16 scale0 = load_f16(group.scales), scale1 = load_f16(group.scales + kBlock);
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++) {
    const f32x16 x_scale = set(group.x_scales[m * groups]);
    float* sum = sums + m * kPanel;
    store(sum, fma(to_float(a[m]), scale0 * x_scale, load(sum)));
    store(sum + kBlock, fma(to_float(b[m]), scale1 * x_scale, load(sum + kBlock)));
  }
  if (group.offsets)
    for (int m = 0; m < rows; m++) {
      const float x_sum = static_cast<float>(group.x_sums[m * groups]) * group.x_scales[m * groups];
      add_offsets(group.offsets, x_sum, sums + m * kPanel);
    }
}

// A panel's groups in memory: packed ones follow each other with their scales; unpacked codes lie in `bytes`.
struct Panel {
  const Matrix& w;
  const uint8_t* packed;
  const uint8_t* bytes;
};

// Adds to sums [rows][32] what the groups [first, last) give.
template <int rows, Format format, bool unpacked>
static void tile(const Panel& panel, const Activations& x, int64_t row, int64_t first, int64_t last, float* sums) {
  const Matrix& w = panel.w;
  const int64_t groups = w.inputs / w.group;
  const int64_t code_bytes = static_cast<int64_t>(w.group) * Packing<format>::bits / 8 * kPanel;
  for (int64_t g = first; g < last; g++) {
    const uint8_t* codes = panel.packed + g * w.group_bytes();
    const uint8_t* scales = codes + code_bytes;
    const Group group = {unpacked ? panel.bytes + g * w.group * kPanel : codes,
                         reinterpret_cast<const uint16_t*>(scales),
                         w.shift == Shift::zeros ? scales + 2 * kPanel : nullptr,
                         w.shift == Shift::offsets ? reinterpret_cast<const uint16_t*>(scales + 2 * kPanel) : nullptr,
                         x.codes + row * w.inputs + g * w.group,
                         x.scales + row * groups + g,
                         x.sums + row * groups + g,
                         w.inputs,
                         groups,
                         w.group,
                         w.zero()};
    group_sums<rows, format, unpacked>(group, sums);
  }
}

// The same for bfloat16 weights, float32 rows and the columns [first, last).
template <int rows>
static void tile_bf16(const Matrix& w, const uint8_t* panel, const float* x, int64_t first, int64_t last,
                      float* sums) {
  const int64_t width = w.inputs;
  f32x16 a[rows], b[rows];
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++) a[m] = load(sums + m * kPanel), b[m] = load(sums + m * kPanel + kBlock);
  const auto* p = reinterpret_cast<const uint16_t*>(panel) + first * kPanel;
  for (int64_t k = first; k < last; k += 2, p += 64) {
    if constexpr (rows == 1) prefetch(p + 1024), prefetch(p + 1056);
    const Pairs w0 = load_pairs(p), w1 = load_pairs(p + 32);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const f32x16 even = set(x[m * width + k]), odd = set(x[m * width + k + 1]);
      a[m] = fma(w0.second, odd, fma(w0.first, even, a[m]));
      b[m] = fma(w1.second, odd, fma(w1.first, even, b[m]));
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++) store(sums + m * kPanel, a[m]), store(sums + m * kPanel + kBlock, b[m]);
}

// ---- what becomes of the sums ----

MC_INLINE void finish_row(const float* sums, int64_t row, int64_t panel, int width, const Output& out) {
  const f32x16 a = load(sums), b = load(sums + kBlock);
  switch (out.finish) {
    case Finish::store: {
      float* y = static_cast<float*>(out.data) + row * out.stride + panel * kPanel;
      if (width == kPanel) {
        store(y, a), store(y + kBlock, b);
      } else {
        for (int i = 0; i < width; i++) y[i] = sums[i];
      }
      break;
    }
    case Finish::round: {
      uint16_t* y = static_cast<uint16_t*>(out.data) + row * out.stride + panel * kPanel;
      if (width == kPanel) {
        store_bf16(y, a), store_bf16(y + kBlock, b);
      } else {
        for (int i = 0; i < width; i++) y[i] = float_to_bf16(sums[i]);
      }
      break;
    }
    case Finish::residual: {
      uint16_t* y = static_cast<uint16_t*>(out.data) + row * out.stride + panel * kPanel;
      if (width == kPanel) {
        const f32x16 scale = set(out.scale);
        store_bf16(y, fma(rounded_to_bf16(a), scale, load_bf16(y)));
        store_bf16(y + kBlock, fma(rounded_to_bf16(b), scale, load_bf16(y + kBlock)));
      } else {
        for (int i = 0; i < width; i++)
          y[i] = float_to_bf16(bf16_to_float(y[i]) + bf16_to_float(float_to_bf16(sums[i])) * out.scale);
      }
      break;
    }
    case Finish::swiglu:
      store(static_cast<float*>(out.data) + row * out.stride + panel * kBlock, silu(a) * b);
      break;
    case Finish::fatrelu: {
      const f32x16 kept = a > set(out.scale) ? a : f32x16{};
      store(static_cast<float*>(out.data) + row * out.stride + panel * kBlock, kept * b);
      break;
    }
  }
}

// ---- all rows of a range of panels ----

template <int n>
struct Count {
  static constexpr int value = n;
};

// `tile(rows, row, sums)` for all rows, as many at a time as there is a tile for.
template <class Tile>
MC_INLINE void each_tile(int64_t rows, float* sums, Tile&& tile) {
  for (int64_t row = 0; row < rows;) {
    const int64_t left = rows - row;
    float* at = sums + row * kPanel;
#define MC_TILE(n)                                       \
  if (kTileRows >= n && left >= n) {                     \
    tile(Count<n>{}, row, at);                           \
    row += n;                                            \
  } else
    MC_TILE(12) MC_TILE(8) MC_TILE(6) MC_TILE(4) MC_TILE(3) MC_TILE(2) {
      tile(Count<1>{}, row, at);
      row += 1;
    }
#undef MC_TILE
  }
}

template <Format format>
static void unpack(const Matrix& w, const uint8_t* panel, uint8_t* bytes) {
  for (int64_t g = 0; g < w.inputs / w.group; g++) {
    const uint8_t* p = panel + g * w.group_bytes();
    for (int k = 0; k < w.group; k += Packing<format>::columns, p += 128)
#pragma GCC unroll 4
      for (int f = 0; f < Packing<format>::fields; f++, bytes += 128) {
        store_bytes(bytes, field<format>(load_bytes(p), f));
        store_bytes(bytes + 64, field<format>(load_bytes(p + 64), f));
      }
  }
}

// Rows first .. first + rows - 1 of x times one panel, run by run of columns so that those stay in the cache.
template <Format format, bool unpacked>
static void int_panel(const Panel& panel, const Activations& x, int64_t first, int64_t rows, float* sums) {
  const Matrix& w = panel.w;
  const int64_t groups = w.inputs / w.group;
  const int64_t run = rows <= kTileRows ? groups : kDepthBytes / (static_cast<int64_t>(w.group) * kPanel);
  for (int64_t g = 0; g < groups; g += run) {
    const int64_t end = g + run < groups ? g + run : groups;
    each_tile(rows, sums, [&](auto count, int64_t row, float* at) {
      tile<decltype(count)::value, format, unpacked>(panel, x, first + row, g, end, at);
    });
  }
  const f32x16 factor = set(w.factor);
  for (int64_t i = 0; i < rows * kPanel; i += kLanes) store(sums + i, load(sums + i) * factor);
}

static void bf16_panel(const Matrix& w, const uint8_t* panel, const float* x, int64_t rows, float* sums) {
  const int64_t width = w.inputs, run = rows <= kTileRows ? width : kDepthBytes / (2 * kPanel);
  for (int64_t k = 0; k < width; k += run) {
    const int64_t end = k + run < width ? k + run : width;
    each_tile(rows, sums, [&](auto count, int64_t row, float* at) {
      tile_bf16<decltype(count)::value>(w, panel, x + row * width, k, end, at);
    });
  }
}

template <Format format>
static void panel_sums(const Matrix& w, const uint8_t* packed, const Activations& x, int64_t first, int64_t rows,
                       uint8_t* scratch, float* sums) {
  if constexpr (format == Format::bf16) {
    bf16_panel(w, packed, x.numbers + first * w.inputs, rows, sums);
  } else if (format != Format::int8 && rows >= kUnpackRows) {
    unpack<format>(w, packed, scratch);
    int_panel<format, true>({w, packed, scratch}, x, first, rows, sums);
  } else {
    int_panel<format, false>({w, packed, nullptr}, x, first, rows, sums);
  }
}

template <Format format>
static void matmul_as(const Matrix& w, const Activations& x, int64_t rows, int64_t first, int64_t last,
                      const Output& out, uint8_t* scratch) {
  const int64_t most = kRowBytes / (w.inputs * (format == Format::bf16 ? 4 : 1));
  const int64_t fit = most < kMostRows ? most : kMostRows;
  const int64_t block = fit < kTileRows ? kTileRows : fit / kTileRows * kTileRows;
  alignas(64) float sums[kMostRows * kPanel];
  for (int64_t row = 0; row < rows; row += block) {
    const int64_t count = rows - row < block ? rows - row : block;
    for (int64_t number = first; number < last; number++) {
      const int64_t left = w.outputs - number * kPanel;
      const int width = left < kPanel ? static_cast<int>(left) : kPanel;
      for (int64_t i = 0; i < count * kPanel; i += kLanes) store(sums + i, f32x16{});
      panel_sums<format>(w, w.data + number * w.panel_bytes(), x, row, count, scratch, sums);
      for (int64_t m = 0; m < count; m++) finish_row(sums + m * kPanel, row + m, number, width, out);
    }
  }
}

static void matmul(const Matrix& w, const Activations& x, int rows, int64_t first, int64_t last, const Output& out,
                   uint8_t* scratch) {
  switch (w.format) {
    case Format::bf16:
      return matmul_as<Format::bf16>(w, x, rows, first, last, out, scratch);
    case Format::int8:
      return matmul_as<Format::int8>(w, x, rows, first, last, out, scratch);
    case Format::int4:
      return matmul_as<Format::int4>(w, x, rows, first, last, out, scratch);
    case Format::int2:
      return matmul_as<Format::int2>(w, x, rows, first, last, out, scratch);
  }
}

}  // namespace MC_ISA
}  // namespace minicpm
