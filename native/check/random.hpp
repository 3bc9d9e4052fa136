// Random inputs of kernels, each of just its length, so that a sanitizer sees what is read beyond them.

#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace minicpm::check {

using Numbers = std::vector<float>;
using Halves = std::vector<uint16_t>;  // bfloat16, or float16 where they are scales
using Bytes = std::vector<uint8_t>;

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

class Random {
 public:
  Numbers normal(int64_t count) {
    return filled<float>(count, [this] { return normal_(engine_); });
  }
  Bytes bytes(int64_t count) {
    return filled<uint8_t>(count, [this] { return static_cast<uint8_t>(engine_()); });
  }
  std::vector<int8_t> codes(int64_t count) {
    return filled<int8_t>(count, [this] { return static_cast<int8_t>(engine_()); });
  }
  Halves bf16(int64_t count) {
    return filled<uint16_t>(count, [this] { return static_cast<uint16_t>(bits_of(normal_(engine_)) >> 16); });
  }
  // Halfway between two bfloat16.
  Numbers ties(int64_t count) {
    return filled<float>(count, [this] { return of_bits((bits_of(normal_(engine_)) & 0xffff0000u) | 0x8000u); });
  }
  // float16 of either sign between 1/64 and 1.
  Halves scales(int64_t count) {
    return filled<uint16_t>(count, [this] {
      return static_cast<uint16_t>((engine_() % 2 << 15) + 0x2400 + engine_() % 0x1800);
    });
  }

 private:
  template <class T, class Next>
  static std::vector<T> filled(int64_t count, Next&& next) {
    std::vector<T> all(static_cast<size_t>(count));
    for (T& one : all) one = next();
    return all;
  }

  std::mt19937 engine_{1};
  std::normal_distribution<float> normal_;
};

// Any numbers as floats, to be compared.
template <class T>
Numbers numbers(const std::vector<T>& values) {
  return Numbers(values.begin(), values.end());
}

inline Numbers widened(const Halves& values) {
  Numbers all;
  for (const uint16_t half : values) all.push_back(of_bits(static_cast<uint32_t>(half) << 16));
  return all;
}

inline Numbers joined(Numbers first, const Numbers& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

}  // namespace minicpm::check
