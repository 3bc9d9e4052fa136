#include "ops/attention.hpp"

#include <algorithm>

#include "kernels/table.hpp"

namespace minicpm {

namespace {

constexpr int kTileRows = 192;       // of a tile; its q and what it gathers stay in the second-level cache
constexpr int kTasksPerThread = 4;   // at least, so that a thread that is held up does not hold up the others
constexpr int64_t kFewestPages = 8;  // of a task
constexpr int64_t kMostParts = 64;   // of an item

int tile_queries(int group) { return std::max(1, kTileRows / group); }

int64_t pages_of(int64_t tokens) { return (tokens + kPage - 1) / kPage; }

int64_t rounded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

}  // namespace

void write(Team& team, const KvPages& kv, const Segments& segments, const FloatRows& k, const FloatRows& v,
           const FloatRows& unrotated) {
  int64_t number = 0;  // of a page and head; a page is written by one thread, which two tokens of a pair need
  for (const Segment& segment : segments)
    for (int64_t token = segment.start; token < segment.length();) {
      const int64_t end = std::min(token / kPage * kPage + kPage, segment.length());
      const int64_t row = segment.row + token - segment.start;
      for (int head = 0; head < kv.heads; head++) {
        if (number++ % team.count != team.index) continue;
        const int64_t column = static_cast<int64_t>(head) * kv.width;
        kernels().write_page(kv, segment.pages[token / kPage], head, static_cast<int>(token % kPage),
                             static_cast<int>(end - token), k.row(row) + column, v.row(row) + column,
                             kv.unrotated.data ? unrotated.row(row) + column : nullptr, k.stride);
      }
      token = end;
    }
}

TilePlan::TilePlan(const Segments& segments, int kv_heads, int queries, int threads) {
  for (int32_t s = 0; s < segments.count; s++)
    for (int32_t head = 0; head < kv_heads; head++)
      for (int32_t query = 0; query < segments.data[s].count; query += queries) {
        const int32_t count = std::min(queries, segments.data[s].count - query);
        items.push_back({s, head, query, count, 1, pages_of(segments.data[s].start + query + count), 0});
      }
  std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.pages > b.pages; });
  const int64_t wanted = static_cast<int64_t>(kTasksPerThread) * threads, count = static_cast<int64_t>(items.size());
  for (auto& item : items) {
    if (threads > 1 && count < wanted)
      item.parts = static_cast<int32_t>(
          std::max<int64_t>(1, std::min({(wanted + count - 1) / count, item.pages / kFewestPages, kMostParts})));
    item.first_task = static_cast<int64_t>(tasks.size());
    for (int32_t part = 0; part < item.parts; part++)
      tasks.push_back({static_cast<int32_t>(&item - items.data()), part});
  }
}

TileRoom::TileRoom(Frame& frame, int queries, int group, int width, bool apart, int threads, int64_t tasks)
    : group_(group), width_(width), apart_(apart) {
  rows_ = rounded(QueryTile::room(queries, group, apart), 16);
  gathered_each_ = rows_ * (width + 1 + 16);
  wide_each_ = 2 * kPage * static_cast<int64_t>(width);
  q_ = frame.take<float>(threads * rows_ * width);
  seen_ = frame.take<int32_t>(threads * rows_);
  own_ = frame.take<float>(threads * gathered_each_);
  wide_ = frame.take<float>(threads * wide_each_);
  shared_ = frame.take<float>(tasks * gathered_each_);
}

QueryTile TileRoom::tile(const Team& team, const Segment& segment, const TileItem& item, float* gathered) const {
  float* peak = gathered + rows_ * width_;
  return {item.queries, group_, width_, apart_, segment.start + item.query, q_ + team.index * rows_ * width_,
          seen_ + team.index * rows_, gathered, peak, peak + rows_};
}

QueryTile TileRoom::own(const Team& team, const Segment& segment, const TileItem& item) const {
  return tile(team, segment, item, own_ + team.index * gathered_each_);
}

QueryTile TileRoom::shared(const Team& team, const Segment& segment, const TileItem& item, int64_t task) const {
  return tile(team, segment, item, shared_ + task * gathered_each_);
}

void merge(Team& team, const TilePlan& plan, const TileRoom& room, const Segments& segments, int64_t head_numbers,
           const FloatRows& out) {
  int64_t number = 0;
  for (const TileItem& item : plan.items) {
    if (item.parts == 1 || number++ % team.count != team.index) continue;
    const Segment& segment = segments.data[item.segment];
    QueryTile parts[kMostParts];
    for (int part = 0; part < item.parts; part++)
      parts[part] = room.shared(team, segment, item, item.first_task + part);
    float* first = out.row(segment.row + item.query) + item.head * head_numbers;
    kernels().finish_queries(parts, item.parts, first, out.stride);
  }
  team.barrier();
}

Attending::Attending(Frame& frame, const KvPages& kv, const Segments& segments, int heads, int threads)
    : kv_(kv),
      segments_(segments),
      group_(heads / kv.heads),
      plan_(segments, kv.heads, tile_queries(group_), threads),
      room_(frame, tile_queries(group_), group_, kv.width, false, threads,
            plan_.split() ? static_cast<int64_t>(plan_.tasks.size()) : 0),
      tickets_(frame, threads) {}

void Attending::attend(Team& team, const FloatRows& q, const FloatRows& out) const {
  tickets_.share(team, static_cast<int64_t>(plan_.tasks.size()),
                 [&](int64_t task) { attend_task(team, task, q, out); });
  team.barrier();
  if (plan_.split()) merge(team, plan_, room_, segments_, static_cast<int64_t>(group_) * kv_.width, out);
}

void Attending::attend_task(Team& team, int64_t task, const FloatRows& q, const FloatRows& out) const {
  const TileTask& at = plan_.tasks[static_cast<size_t>(task)];
  const TileItem& item = plan_.items[static_cast<size_t>(at.item)];
  const Segment& segment = segments_.data[item.segment];
  const int64_t row = segment.row + item.query, column = static_cast<int64_t>(item.head) * group_ * kv_.width;
  const QueryTile tile =
      item.parts > 1 ? room_.shared(team, segment, item, task) : room_.own(team, segment, item);
  const int64_t first = item.pages * at.part / item.parts, last = item.pages * (at.part + 1) / item.parts;
  kernels().pack_queries(tile, q.row(row) + column, q.stride);
  kernels().attend_pages(kv_, item.head, tile, segment.pages, {nullptr, nullptr, first, last - first},
                         room_.wide(team));
  if (item.parts == 1) kernels().finish_queries(&tile, 1, out.row(row) + column, out.stride);
}

}  // namespace minicpm
