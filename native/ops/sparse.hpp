// InfLLM-V2 attention over pages (arXiv 2509.24663), for several sequences at once.

#pragma once

#include <cstdint>
#include <vector>

#include "ops/attention.hpp"

namespace minicpm {

// Makes the compressed keys whose windows end in the new tokens, all of them written. Nobody waits at the end.
void compress(Team& team, const KvPages& kv, const Compressed& compressed, const Segments& segments);

// The segments cut where their queries begin to choose.
struct CutSegments {
  CutSegments(const Segments& segments, int64_t dense);

  std::vector<Segment> dense, sparse;
};

// Attention in which every query from position `dense` of the rule on chooses its blocks. As `Attending`.
class SparseAttending {
 public:
  SparseAttending(Frame& frame, const KvPages& kv, const Compressed& compressed, const Segments& segments, int heads,
                  int threads);
  SparseAttending(SparseAttending&&) = default;  // a copy's parts would refer to the original

  // q, out and the queries that choose: [rows][heads * width]; these are q unless unrotated keys are kept. Where
  // `chosen` is not null it receives the blocks of all queries that choose, [rows][key/value heads][chosen_blocks]
  // in order, then -1. All of out is written when this returns.
  void attend(Team& team, const FloatRows& q, const FloatRows& choosing, const FloatRows& out,
              int32_t* chosen = nullptr) const;

 private:
  struct Call {
    FloatRows q, choosing, out;
    int32_t* chosen;
  };

  void attend_whole(Team& team, const Call& call, int64_t item) const;
  void attend_shared(Team& team, const Call& call) const;
  void score_task(Team& team, const Call& call, int64_t task) const;
  void choose_task(Team& team, const Call& call, int64_t task) const;
  void attend_task(Team& team, const Call& call, int64_t task) const;

  void score(Team& team, const TileItem& item, const QueryTile& tile, int query, int count, int64_t first,
             int64_t last, float* scores) const;
  // One query's blocks from its scores, into its list.
  void choose(Team& team, const Call& call, const TileItem& item, int query, float* scores, int32_t* list) const;
  // The pages that the queries of a tile have chosen, in the thread's room.
  Visits visits(Team& team, const TileItem& item, const int32_t* lists) const;

  float* row(const FloatRows& rows, const TileItem& item) const;
  // The sums of all slots and of the slots that reach into the last block, and a number per block.
  int64_t choice_numbers() const {
    return slots_ + kPage + compressed_.rule.before() + 2 * blocks_ + 64;
  }
  int64_t list_numbers() const { return compressed_.rule.chosen_blocks + 1; }  // their number comes first
  const Segment& segment_of(const TileItem& item) const { return cut_.sparse[static_cast<size_t>(item.segment)]; }
  Segments sparse() const { return {cut_.sparse.data(), static_cast<int32_t>(cut_.sparse.size())}; }
  Segments dense() const { return {cut_.dense.data(), static_cast<int32_t>(cut_.dense.size())}; }

  KvPages kv_;
  Compressed compressed_;
  int group_;
  CutSegments cut_;
  Attending dense_;
  TilePlan plan_;
  bool shared_;  // there are too few tiles for one thread each
  TileRoom room_, choosing_;
  Tickets tickets_;
  int64_t slots_, blocks_;      // of the longest sequence
  int64_t query_rows_;          // of a query, those that fill its panels included
  int scored_;                  // queries whose scores are held at once
  float *scores_, *choice_;
  uint16_t* keys_;
  uint32_t *readers_, *queries_;
  int32_t *visited_, *lists_;
};

}  // namespace minicpm
