// Neighbouring queries that read the same pages together.

#pragma once

#include <cstdint>

namespace minicpm {

// Queries of one key/value head as rows, `group` heads of each query in turn, and what they have gathered so far.
// Rows lie in panels that fit the registers. Where each query reads its own pages they are `apart`: no panel holds
// rows of two queries.
//
// A row's weights are powers of two: q carries log2(e) / sqrt(width).
struct QueryTile {
  int32_t queries, group, width;
  bool apart;
  int64_t position;  // of the first query
  float* q;          // panels [width][rows]
  int32_t* seen;     // [rows] positions that a row sees
  float* out;        // [rows][width] sum of weighted values
  float* peak;       // [rows] the largest score
  float* total;      // [rows][16] parts of the sum of weights

  // Rows that panels may take, those that only fill them included.
  static int64_t room(int queries, int group, bool apart) {
    const int64_t rows = apart ? group : static_cast<int64_t>(queries) * group;
    return (rows * 4 / 3 + 4) * (apart ? queries : 1);
  }
};

// The pages of a sequence that a tile reads: `blocks` with for each the queries that read it (bit j is query j of
// tiles that are apart); where `blocks` is null, count blocks from `first` on and all queries.
struct Visits {
  const int32_t* blocks;
  const uint32_t* queries;
  int64_t first, count;
};

constexpr int kMostQueries = 32;  // of a tile whose queries are apart

}  // namespace minicpm
