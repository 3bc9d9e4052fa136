// What the kernels of lightning attention know of one head.

#pragma once

#include <cstdint>

#include "core/head_rows.hpp"

namespace minicpm {

constexpr int kChunk = 64;      // tokens whose products with each other cost about what those with a state do
constexpr int kMostWidth = 256;  // of keys and values

struct LightningHead {
  HeadRows q, k, v, out;
  int32_t head, shared;  // shared: the head of k and v
  const float* powers;   // [kChunk + 1] what a state keeps after so many tokens
  float scale;

  int keys() const { return k.width; }
  int values() const { return v.width; }
};

// Tokens row .. row + count - 1 of what is passed in, and the state [keys][values] of one head before the first
// (null for none) and after the last. Both may be the same memory.
struct LightningSpan {
  int64_t row;
  int32_t count;
  const float* before;
  float* after;
};

// Floats that the kernel of a chunk works in.
inline int64_t lightning_scratch(int keys, int values) {
  return static_cast<int64_t>(kChunk) * (3 * keys + values + kChunk);
}

}  // namespace minicpm
