#include <algorithm>
#include <list>

#include "check/checks.hpp"
#include "check/paged.hpp"

namespace minicpm::check {

namespace {

struct Shape {
  KvFormat format;
  int width, group, queries, length;
};

constexpr Shape kShapes[] = {
    {KvFormat::bf16, 16, 1, 1, 1},     {KvFormat::bf16, 64, 5, 1, 63},   {KvFormat::bf16, 80, 16, 1, 64},
    {KvFormat::bf16, 128, 2, 3, 65},   {KvFormat::bf16, 64, 4, 33, 300}, {KvFormat::bf16, 48, 3, 64, 1000},
    {KvFormat::int8, 16, 1, 1, 1},     {KvFormat::int8, 64, 5, 1, 63},   {KvFormat::int8, 80, 16, 1, 64},
    {KvFormat::int8, 128, 2, 3, 65},   {KvFormat::int8, 64, 4, 33, 300}, {KvFormat::int8, 48, 3, 64, 1000},
};

// The last queries of the sequence, over its pages in `parts`.
Numbers attended(const Kernels& k, const PagedSequence& sequence, const Shape& shape, const Numbers& q, int parts) {
  const int64_t stride = static_cast<int64_t>(shape.group) * shape.width;
  Numbers out(q.size()), wide(2 * kPage * static_cast<size_t>(shape.width));
  std::list<Tile> rooms;
  std::vector<QueryTile> tiles;
  for (int64_t part = 0; part < parts; part++) {
    rooms.emplace_back(shape.queries, shape.group, shape.width, false, shape.length - shape.queries);
    tiles.push_back(rooms.back().tile());
    const int64_t first = sequence.pages() * part / parts, last = sequence.pages() * (part + 1) / parts;
    k.pack_queries(tiles.back(), q.data(), stride);
    k.attend_pages(sequence.kv(), kHead, tiles.back(), sequence.table(), {nullptr, nullptr, first, last - first},
                   wide.data());
  }
  k.finish_queries(tiles.data(), parts, out.data(), stride);
  return out;
}

// Each of the last queries over every page but those whose number has the same remainder as its own by three.
Numbers attended_apart(const Kernels& k, const PagedSequence& sequence, const Shape& shape, const Numbers& q) {
  const int64_t stride = static_cast<int64_t>(shape.group) * shape.width;
  Numbers out(q.size()), wide(2 * kPage * static_cast<size_t>(shape.width));
  std::vector<int32_t> blocks;
  std::vector<uint32_t> readers;
  for (int block = 0; block < sequence.pages(); block++) {
    uint32_t queries = 0;
    for (int j = 0; j < shape.queries; j++)
      if (block == 0 || j % 3 != block % 3) queries |= 1u << j;
    if (queries) blocks.push_back(block), readers.push_back(queries);
  }
  const Tile room(shape.queries, shape.group, shape.width, true, shape.length - shape.queries);
  k.pack_queries(room.tile(), q.data(), stride);
  k.attend_pages(sequence.kv(), kHead, room.tile(), sequence.table(),
                 {blocks.data(), readers.data(), 0, static_cast<int64_t>(blocks.size())}, wide.data());
  k.finish_queries(&room.tile(), 1, out.data(), stride);
  return out;
}

}  // namespace

void check_attention(Comparison& comparison) {
  Random random;
  for (const Shape& shape : kShapes) {
    const int format = static_cast<int>(shape.format);
    const auto sequence = [&](const Kernels& k) {
      Random same;
      return PagedSequence(k, same, shape.format, shape.width, shape.length, true);
    };
    comparison.same("write_page", {format, shape.width, shape.length}, kExact,
                    [&](const Kernels& k) { return sequence(k).stored(); });
    const PagedSequence read = sequence(comparison.trusted());
    const Numbers q = random.normal(int64_t{shape.queries} * shape.group * shape.width);
    for (int parts = 1; parts <= std::min(3, read.pages()); parts++)
      comparison.same("attend_pages", {format, shape.width, shape.group, shape.queries, shape.length, parts}, kSums,
                      [&](const Kernels& k) { return attended(k, read, shape, q, parts); });
    if (shape.queries <= kMostQueries)
      comparison.same("attend_pages apart", {format, shape.width, shape.group, shape.queries, shape.length}, kSums,
                      [&](const Kernels& k) { return attended_apart(k, read, shape, q); });
    comparison.holds("panel_rows", {shape.group}, [&](const Kernels& k) {
      const int rows = k.panel_rows(shape.group);
      return rows >= shape.group && rows <= QueryTile::room(1, shape.group, true);
    });
  }
}

}  // namespace minicpm::check
