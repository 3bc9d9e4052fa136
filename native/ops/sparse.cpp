#include "ops/sparse.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/table.hpp"

namespace minicpm {

namespace {

constexpr int kTileRows = 256;
constexpr int64_t kScoreBytes = 512 << 10;  // scores that stay in the second-level cache

int tile_queries(int group) { return std::clamp(kTileRows / group, 1, kMostQueries); }

int64_t rounded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

int64_t longest(const std::vector<Segment>& segments) {
  int64_t most = 1;
  for (const Segment& segment : segments) most = std::max(most, segment.length());
  return most;
}

}  // namespace

void compress(Team& team, const KvPages& kv, const Compressed& compressed, const Segments& segments) {
  const SparseRule& rule = compressed.rule;
  int64_t number = 0;
  for (const Segment& segment : segments) {
    const int64_t first = std::max<int64_t>(segment.start / rule.kernel_stride, rule.before());
    for (int64_t slot = first; slot < segment.length() / rule.kernel_stride; slot++)
      for (int head = 0; head < kv.heads; head++)
        if (number++ % team.count == team.index) kernels().compress_slot(kv, compressed, head, segment.pages, slot);
  }
}

CutSegments::CutSegments(const Segments& segments, int64_t dense_positions) {
  for (const Segment& segment : segments) {
    const auto count = static_cast<int32_t>(std::clamp<int64_t>(dense_positions - segment.start, 0, segment.count));
    if (count > 0) dense.push_back({segment.start, count, segment.row, segment.pages});
    if (count < segment.count)
      sparse.push_back({segment.start + count, segment.count - count, segment.row + count, segment.pages});
  }
}

SparseAttending::SparseAttending(Frame& frame, const KvPages& kv, const Compressed& compressed,
                                 const Segments& segments, int heads, int threads)
    : kv_(kv),
      compressed_(compressed),
      group_(heads / kv.heads),
      cut_(segments, compressed.rule.dense),
      dense_(frame, kv, dense(), heads, threads),
      plan_(sparse(), kv.heads, tile_queries(group_), threads),
      shared_(threads > 1 && plan_.items.size() < 2 * static_cast<size_t>(threads) &&
              plan_.items.size() % static_cast<size_t>(threads) != 0),
      room_(frame, tile_queries(group_), group_, kv.width, true, threads,
            shared_ ? static_cast<int64_t>(plan_.tasks.size()) : 0),
      choosing_(frame, tile_queries(group_), group_, kv.width, true, threads, 0),
      tickets_(frame, threads) {
  const SparseRule& rule = compressed.rule;
  const int64_t length = longest(cut_.sparse);
  slots_ = rounded(length / rule.kernel_stride + 1, 32);
  blocks_ = rounded(length / kPage + 1, 16);
  query_rows_ = QueryTile::room(1, group_, true);
  const int64_t query_scores = query_rows_ * slots_, most = tile_queries(group_);
  scored_ = static_cast<int>(std::clamp<int64_t>(kScoreBytes / (4 * query_scores), 1, most));
  const int64_t items = static_cast<int64_t>(plan_.items.size());
  scores_ = frame.take<float>(shared_ ? items * most * query_scores : threads * scored_ * query_scores);
  choice_ = frame.take<float>(threads * choice_numbers());
  keys_ = frame.take<uint16_t>(threads * 32 * static_cast<int64_t>(kv.width));
  readers_ = frame.take<uint32_t>(threads * blocks_);
  queries_ = frame.take<uint32_t>(threads * blocks_);
  visited_ = frame.take<int32_t>(threads * blocks_);
  lists_ = frame.take<int32_t>((shared_ ? items : threads) * most * list_numbers());
}

void SparseAttending::attend(Team& team, const FloatRows& q, const FloatRows& choosing, const FloatRows& out,
                             int32_t* chosen) const {
  if (!cut_.dense.empty()) dense_.attend(team, q, out);
  if (cut_.sparse.empty()) return;
  const Call call = {q, choosing, out, chosen};
  if (shared_) return attend_shared(team, call);
  tickets_.share(team, static_cast<int64_t>(plan_.items.size()),
                 [&](int64_t item) { attend_whole(team, call, item); });
  team.barrier();
}

// ---- a tile by one thread ----

void SparseAttending::attend_whole(Team& team, const Call& call, int64_t number) const {
  const TileItem& item = plan_.items[static_cast<size_t>(number)];
  const Segment& segment = segment_of(item);
  const QueryTile choosing = choosing_.own(team, segment, item), tile = room_.own(team, segment, item);
  float* scores = scores_ + team.index * scored_ * query_rows_ * slots_;
  int32_t* lists = lists_ + team.index * tile_queries(group_) * list_numbers();
  kernels().pack_queries(choosing, row(call.choosing, item), call.choosing.stride);
  for (int query = 0; query < item.queries; query += scored_) {
    const int count = std::min(scored_, item.queries - query);
    const int64_t seen = compressed_.rule.seen_slots(choosing.position + query + count - 1);
    score(team, item, choosing, query, count, 0, seen, scores);
    for (int j = 0; j < count; j++)
      choose(team, call, item, query + j, scores + j * kernels().panel_rows(group_) * slots_,
             lists + (query + j) * list_numbers());
  }
  kernels().pack_queries(tile, row(call.q, item), call.q.stride);
  kernels().attend_pages(kv_, item.head, tile, segment.pages, visits(team, item, lists), room_.wide(team));
  kernels().finish_queries(&tile, 1, row(call.out, item), call.out.stride);
}

// ---- a tile by several threads ----

void SparseAttending::attend_shared(Team& team, const Call& call) const {
  const auto tasks = static_cast<int64_t>(plan_.tasks.size()), items = static_cast<int64_t>(plan_.items.size());
  tickets_.share(team, tasks, [&](int64_t task) { score_task(team, call, task); });
  team.barrier();
  tickets_.share(team, items * tile_queries(group_), [&](int64_t task) { choose_task(team, call, task); });
  team.barrier();
  tickets_.share(team, tasks, [&](int64_t task) { attend_task(team, call, task); });
  team.barrier();
  if (plan_.split()) merge(team, plan_, room_, sparse(), static_cast<int64_t>(group_) * kv_.width, call.out);
}

void SparseAttending::score_task(Team& team, const Call& call, int64_t number) const {
  const TileTask& task = plan_.tasks[static_cast<size_t>(number)];
  const TileItem& item = plan_.items[static_cast<size_t>(task.item)];
  const QueryTile tile = choosing_.own(team, segment_of(item), item);
  const int64_t seen = compressed_.rule.seen_slots(tile.position + item.queries - 1), runs = (seen + 31) / 32;
  kernels().pack_queries(tile, row(call.choosing, item), call.choosing.stride);
  score(team, item, tile, 0, item.queries, runs * task.part / item.parts * 32,
        std::min(seen, runs * (task.part + 1) / item.parts * 32),
        scores_ + task.item * tile_queries(group_) * query_rows_ * slots_);
}

void SparseAttending::choose_task(Team& team, const Call& call, int64_t number) const {
  const int64_t queries = tile_queries(group_);
  const TileItem& item = plan_.items[static_cast<size_t>(number / queries)];
  const int query = static_cast<int>(number % queries);
  if (query >= item.queries) return;
  float* scores = scores_ + number / queries * queries * query_rows_ * slots_;
  choose(team, call, item, query, scores + query * kernels().panel_rows(group_) * slots_,
         lists_ + number * list_numbers());
}

void SparseAttending::attend_task(Team& team, const Call& call, int64_t number) const {
  const TileTask& task = plan_.tasks[static_cast<size_t>(number)];
  const TileItem& item = plan_.items[static_cast<size_t>(task.item)];
  const Segment& segment = segment_of(item);
  const Visits all = visits(team, item, lists_ + task.item * tile_queries(group_) * list_numbers());
  const int64_t first = all.count * task.part / item.parts, last = all.count * (task.part + 1) / item.parts;
  const QueryTile tile = room_.shared(team, segment, item, number);
  kernels().pack_queries(tile, row(call.q, item), call.q.stride);
  kernels().attend_pages(kv_, item.head, tile, segment.pages,
                         {all.blocks + first, all.queries + first, 0, last - first}, room_.wide(team));
  if (item.parts == 1) kernels().finish_queries(&tile, 1, row(call.out, item), call.out.stride);
}

// ---- steps ----

float* SparseAttending::row(const FloatRows& rows, const TileItem& item) const {
  return rows.row(segment_of(item).row + item.query) + static_cast<int64_t>(item.head) * group_ * kv_.width;
}

void SparseAttending::score(Team& team, const TileItem& item, const QueryTile& tile, int query, int count,
                            int64_t first, int64_t last, float* scores) const {
  kernels().score_slots(kv_, compressed_, item.head, segment_of(item).pages, first, last, tile, query, count, scores,
                        slots_, keys_ + team.index * 32 * static_cast<int64_t>(kv_.width));
}

void SparseAttending::choose(Team& team, const Call& call, const TileItem& item, int query, float* scores,
                             int32_t* list) const {
  const Segment& segment = segment_of(item);
  const int32_t budget = compressed_.rule.chosen_blocks;
  int32_t* blocks = list + 1;
  list[0] = kernels().choose_blocks(compressed_.rule, segment.start + item.query + query, scores, slots_, group_,
                                    choice_ + team.index * choice_numbers(), blocks);
  if (!call.chosen) return;
  const int64_t row = segment.row + item.query + query;
  int32_t* told = call.chosen + (row * kv_.heads + item.head) * budget;
  std::copy_n(blocks, list[0], told);
  std::fill_n(told + list[0], budget - list[0], -1);
}

Visits SparseAttending::visits(Team& team, const TileItem& item, const int32_t* lists) const {
  uint32_t *readers = readers_ + team.index * blocks_, *queries = queries_ + team.index * blocks_;
  int32_t* visited = visited_ + team.index * blocks_;
  std::fill_n(readers, item.pages, 0u);
  for (int query = 0; query < item.queries; query++, lists += list_numbers())
    for (int32_t i = 1; i <= lists[0]; i++) readers[lists[i]] |= 1u << query;
  int64_t count = 0;
  for (int64_t block = 0; block < item.pages; block++) {
    if (!readers[block]) continue;
    visited[count] = static_cast<int32_t>(block);
    queries[count++] = readers[block];
  }
  return {visited, queries, 0, count};
}

}  // namespace minicpm
