// Between rows of codes as files and torch hold them and the layout of the kernels.

#pragma once

#include <cstdint>

#include "core/matrix.hpp"
#include "core/pool.hpp"

namespace minicpm {

// A matrix in rows. `codes` holds for every row its codes in bytes, lowest bits first (bf16: the numbers), `stride`
// bytes apart; `scales` float32 and, as the matrix has them, `zeros` bytes or `offsets` float32 hold `groups` per row, of
// `group` columns each.
struct Rows {
  const uint8_t* codes;
  int64_t stride;
  const float* scales;
  const uint8_t* zeros;
  const float* offsets;
  int64_t groups;
  int32_t group;
};

// Writes matrix.data. Output j of the matrix is row `order[j]` of `rows`, zero where that is kNone; `order` has as many
// entries as the panels have outputs. Of bf16 some outputs may stay as they are, by kKept.
constexpr int32_t kNone = -1, kKept = -2;
void pack(Pool& pool, const Matrix& matrix, uint8_t* data, const Rows& rows, const int32_t* order);

// The inverse for float32 rows [outputs][inputs]: what the kernels multiply with.
void unpack(Pool& pool, const Matrix& matrix, const int32_t* order, float* rows);

// Rows `ids` of a matrix whose outputs lie in their order: bfloat16 [count][inputs].
void gather(const Matrix& matrix, const int64_t* ids, int64_t count, uint16_t* out);

// A factor for all scales so that they fit float16: a power of two.
float scale_factor(const float* scales, int64_t count);

}  // namespace minicpm
