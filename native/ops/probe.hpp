// The limits of this machine: how fast all threads together read memory and multiply.

#pragma once

#include <cstdint>
#include <vector>

#include "core/pool.hpp"

namespace minicpm {

// Bytes per second of each of `passes` over `bytes` of fresh memory, which is given back. Throws std::bad_alloc.
std::vector<double> read_bandwidth(Pool& pool, int64_t bytes, int passes);

// Operations per second, a multiply-add being two, of each of `passes` over products of float32 or of bytes.
std::vector<double> peak_float(Pool& pool, int passes);
std::vector<double> peak_int8(Pool& pool, int passes);

}  // namespace minicpm
