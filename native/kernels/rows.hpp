// Steps on single rows: conversions and the norm.

#pragma once

#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

static void widen(const uint16_t* x, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, load_bf16(x + i));
  for (; i < count; i++) out[i] = bf16_to_float(x[i]);
}

static void narrow(const float* x, uint16_t* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_bf16(out + i, load(x + i));
  for (; i < count; i++) out[i] = float_to_bf16(x[i]);
}

// Rounded to bfloat16 before the weight and after it, where the reference rounds.
static void rms_norm(const uint16_t* x, const float* weight, float eps, int width, float* out) {
  f32x16 squares = {};
  int i = 0;
  float rest = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const f32x16 v = load_bf16(x + i);
    squares = fma(v, v, squares);
  }
  for (; i < width; i++) rest += bf16_to_float(x[i]) * bf16_to_float(x[i]);
  const float scale = 1.0f / std::sqrt((sum(squares) + rest) / static_cast<float>(width) + eps);
  for (i = 0; i + kLanes <= width; i += kLanes)
    store(out + i, rounded_to_bf16(rounded_to_bf16(load_bf16(x + i) * set(scale)) * load(weight + i)));
  for (; i < width; i++)
    out[i] = bf16_to_float(
        float_to_bf16(bf16_to_float(float_to_bf16(bf16_to_float(x[i]) * scale)) * weight[i]));
}

// Turns the pairs (i, i + half) of x by the angles of its position.
static void rotate(float* x, const float* cos, const float* sin, int half) {
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const f32x16 low = load(x + i), high = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(x + i, low * c - high * s);
    store(x + half + i, high * c + low * s);
  }
  for (; i < half; i++) {
    const float low = x[i], high = x[half + i];
    x[i] = low * cos[i] - high * sin[i];
    x[half + i] = high * cos[i] + low * sin[i];
  }
}

// x *= sigmoid(gate)
static void gate(float* x, const float* gates, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(x + i, load(x + i) * sigmoid(load(gates + i)));
  for (; i < count; i++) x[i] /= 1.0f + std::exp(-gates[i]);
}

}  // namespace MC_ISA
}  // namespace minicpm
