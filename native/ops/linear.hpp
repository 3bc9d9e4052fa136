// Products with a packed matrix by all threads of a team.

#pragma once

#include <algorithm>
#include <cstdint>

#include "core/matrix.hpp"
#include "core/pool.hpp"
#include "kernels/table.hpp"
#include "ops/frame.hpp"

namespace minicpm {

// Room for `rows` rows of input as one matrix wants them. A single row is made by every thread for itself, which
// costs less than waiting for another's; more are shared.
class Inputs {
 public:
  Inputs(Frame& frame, const Matrix& w, int rows, int threads)
      : w_(w), rows_(rows), copies_(rows == 1 ? threads : 1) {
    const int64_t width = w.inputs, groups = w.inputs / w.group;
    if (w.format == Format::bf16) {
      numbers_ = frame.take<float>(copies_ * rows * width);
    } else {
      row_ = frame.take<float>(threads * width);
      codes_ = frame.take<int8_t>(copies_ * rows * width);
      scales_ = frame.take<float>(copies_ * rows * groups);
      sums_ = frame.take<int32_t>(copies_ * rows * groups);
    }
  }

  // `fill(row, out)` writes the float32 numbers of one row. All threads see all rows when this returns.
  template <class Fill>
  Activations stage(Team& team, Fill&& fill) const {
    const int64_t width = w_.inputs, groups = w_.inputs / w_.group;
    const int64_t copy = copies_ > 1 ? team.index : 0;
    const Activations mine = {numbers_ ? numbers_ + copy * width : nullptr, codes_ + copy * width,
                              scales_ + copy * groups, sums_ + copy * groups};
    const auto range = copies_ > 1 || rows_ == 1 ? Team::Range{0, rows_} : team.share(rows_);
    for (int64_t row = range.first; row < range.last; row++) {
      if (numbers_) {
        fill(row, numbers_ + (copy + row) * width);
        continue;
      }
      float* numbers = row_ + team.index * width;
      fill(row, numbers);
      kernels().quantize(numbers, w_.inputs, w_.group, codes_ + (copy + row) * width,
                         scales_ + (copy + row) * groups, sums_ + (copy + row) * groups);
    }
    if (rows_ > 1) team.barrier();
    return mine;
  }

 private:
  const Matrix& w_;
  int rows_;
  int64_t copies_;
  float* numbers_ = nullptr;
  float* row_ = nullptr;
  int8_t* codes_ = nullptr;
  float* scales_ = nullptr;
  int32_t* sums_ = nullptr;
};

// Each thread's room to unpack a panel in.
class Unpacking {
 public:
  Unpacking(Frame& frame, const Matrix& w, int threads)
      : each_((matmul_scratch(w) + 63) / 64 * 64), start_(frame.take<uint8_t>(threads * each_)) {}

  uint8_t* of(const Team& team) const { return start_ + team.index * each_; }

 private:
  int64_t each_;
  uint8_t* start_;
};

// This thread's panels of w times all rows. Nobody waits at the end.
inline void multiply(Team& team, const Matrix& w, const Activations& x, int rows, const Output& out,
                     const Unpacking& unpacking) {
  const auto range = team.share(w.panels());
  kernels().matmul(w, x, rows, range.first, range.last, out, unpacking.of(team));
}

}  // namespace minicpm
