// Causal attention over pages, for several sequences at once.

#pragma once

#include <cstdint>
#include <vector>

#include "core/pages.hpp"
#include "core/pool.hpp"
#include "core/query_tile.hpp"
#include "ops/frame.hpp"
#include "ops/tickets.hpp"

namespace minicpm {

// float32 rows, `stride` numbers apart.
struct FloatRows {
  float* data;
  int64_t stride;

  float* row(int64_t index) const { return data + index * stride; }
};

// Writes k, v [rows][heads * width] of new tokens and, where such keys are kept, unrotated ones. Nobody waits at the
// end; what reads the pages needs a barrier before it.
void write(Team& team, const KvPages& kv, const Segments& segments, const FloatRows& k, const FloatRows& v,
           const FloatRows& unrotated);

// Queries [query, query + queries) of a segment for one key/value head, whose pages are read in `parts` runs.
struct TileItem {
  int32_t segment, head, query, queries, parts;
  int64_t pages;       // up to the last query
  int64_t first_task;  // its runs are tasks first_task, first_task + 1, ..
};

struct TileTask {
  int32_t item, part;
};

// All tiles of some segments, those that read most first, cut so that no thread is left without work.
struct TilePlan {
  TilePlan(const Segments& segments, int kv_heads, int queries, int threads);

  bool split() const { return tasks.size() > items.size(); }

  std::vector<TileItem> items;
  std::vector<TileTask> tasks;
};

// Room for tiles of one size: rows for each thread, and what each of several tasks gathers.
class TileRoom {
 public:
  TileRoom(Frame& frame, int queries, int group, int width, bool apart, int threads, int64_t tasks);

  // A tile whose rows are in the thread's room and that gathers there.
  QueryTile own(const Team& team, const Segment& segment, const TileItem& item) const;
  // The same, but it gathers where the task's results are kept for others.
  QueryTile shared(const Team& team, const Segment& segment, const TileItem& item, int64_t task) const;
  // Room to widen a page in.
  float* wide(const Team& team) const { return wide_ + team.index * wide_each_; }

 private:
  QueryTile tile(const Team& team, const Segment& segment, const TileItem& item, float* gathered) const;

  int group_, width_;
  bool apart_;
  int64_t rows_, gathered_each_, wide_each_;
  float *q_, *own_, *shared_, *wide_;
  int32_t* seen_;
};

// Brings together what the tasks of split items gathered. Ends with a barrier.
void merge(Team& team, const TilePlan& plan, const TileRoom& room, const Segments& segments, int64_t head_numbers,
           const FloatRows& out);

// Attention of all queries over all positions up to their own. Made before a team runs and used by all its threads, as
// often as wanted.
class Attending {
 public:
  // `heads` query heads, a multiple of the key/value heads. The segments stay where they are.
  Attending(Frame& frame, const KvPages& kv, const Segments& segments, int heads, int threads);

  // q and out [rows][heads * width]. All of out is written when this returns.
  void attend(Team& team, const FloatRows& q, const FloatRows& out) const;

 private:
  void attend_task(Team& team, int64_t task, const FloatRows& q, const FloatRows& out) const;

  KvPages kv_;
  Segments segments_;
  int group_;
  TilePlan plan_;
  TileRoom room_;
  Tickets tickets_;
};

}  // namespace minicpm
