// Numbers of several heads as rows of tokens.

#pragma once

#include <cstdint>

namespace minicpm {

// Number e of head h of token t is the one at t * stride + h * width + e: float32, or bfloat16 where `half`.
struct HeadRows {
  void* data;
  bool half;
  int64_t stride;
  int32_t width;

  const float* wide_at(int64_t token, int64_t head) const {
    return static_cast<const float*>(data) + token * stride + head * width;
  }
  const uint16_t* half_at(int64_t token, int64_t head) const {
    return static_cast<const uint16_t*>(data) + token * stride + head * width;
  }
  void* at(int64_t token, int64_t head) const {
    return static_cast<uint8_t*>(data) + (token * stride + head * width) * (half ? 2 : 4);
  }
};

}  // namespace minicpm
