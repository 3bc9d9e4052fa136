// Rows of activations as float32 and as the bytes of packed formats, both at once.

#pragma once

#include <utility>

#include "check/random.hpp"
#include "kernels/table.hpp"

namespace minicpm::check {

class Staged {
 public:
  // Rows whose width is a multiple of `group`; bytes are left out where there is no group.
  Staged(const Kernels& kernels, Numbers rows, int group) : rows_(std::move(rows)) {
    if (!group) return;
    codes_.resize(rows_.size());
    scales_.resize(rows_.size() / static_cast<size_t>(group));
    sums_.resize(scales_.size());
    kernels.quantize(rows_.data(), static_cast<int>(rows_.size()), group, codes_.data(), scales_.data(),
                     sums_.data());
  }

  Activations activations() const { return {rows_.data(), codes_.data(), scales_.data(), sums_.data()}; }

  Numbers quantized() const { return joined(joined(numbers(codes_), scales_), numbers(sums_)); }

 private:
  Numbers rows_, scales_;
  std::vector<int8_t> codes_;
  std::vector<int32_t> sums_;
};

}  // namespace minicpm::check
