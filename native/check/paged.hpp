// A sequence in pages whose order is reversed, and a tile of queries that reads it.

#pragma once

#include <algorithm>
#include <utility>

#include "check/random.hpp"
#include "kernels/table.hpp"

namespace minicpm::check {

constexpr int kKvHeads = 2, kHead = 1;  // the head that is looked at

// One sequence, written by one table of kernels.
class PagedSequence {
 public:
  PagedSequence(const Kernels& kernels, Random& random, KvFormat format, int width, int length, bool unrotated)
      : length_(length), pages_((length + kPage - 1) / kPage) {
    kv_ = {format, kKvHeads, width, {}, {}, {}};
    kv_.k = plane(0), kv_.v = plane(1);
    if (unrotated) kv_.unrotated = plane(2);
    for (int page = pages_; page > 0; page--) table_.push_back(page - 1);
    const int64_t count = static_cast<int64_t>(length) * width;
    const Numbers k = random.normal(count), v = random.normal(count), before = random.normal(count);
    for (int first = 0; first < length; first += kPage) {
      const int64_t at = static_cast<int64_t>(first) * width;
      kernels.write_page(kv_, table_[static_cast<size_t>(first / kPage)], kHead, 0, std::min(kPage, length - first),
                         k.data() + at, v.data() + at, before.data() + at, width);
    }
  }

  PagedSequence(const PagedSequence&) = delete;

  const KvPages& kv() const { return kv_; }
  const int32_t* table() const { return table_.data(); }
  int length() const { return length_; }
  int pages() const { return pages_; }

  // All that is stored, scales last.
  Numbers stored() const {
    Numbers all;
    for (int i = 0; i < 3; i++) all = joined(joined(std::move(all), numbers(data_[i])), scales_[i]);
    return all;
  }

 private:
  Plane plane(int number) {
    data_[number].resize(static_cast<size_t>(pages_ * kKvHeads * kv_.page_bytes()));
    scales_[number].resize(static_cast<size_t>(kv_.format == KvFormat::int8 ? pages_ * kKvHeads * kPage : 0));
    return {data_[number].data(), scales_[number].empty() ? nullptr : scales_[number].data()};
  }

  int length_, pages_;
  KvPages kv_;
  Bytes data_[3];
  Numbers scales_[3];
  std::vector<int32_t> table_;
};

// A tile of queries and the memory it lies in.
class Tile {
 public:
  Tile(int queries, int group, int width, bool apart, int64_t position)
      : rows_(static_cast<size_t>(QueryTile::room(queries, group, apart))),
        q_(rows_ * static_cast<size_t>(width)),
        out_(q_.size()),
        peak_(rows_),
        total_(rows_ * 16),
        seen_(rows_),
        tile_{queries, group, width, apart, position, q_.data(), seen_.data(), out_.data(), peak_.data(),
              total_.data()} {}
  Tile(const Tile&) = delete;

  const QueryTile& tile() const { return tile_; }

 private:
  size_t rows_;
  Numbers q_, out_, peak_, total_;
  std::vector<int32_t> seen_;
  QueryTile tile_;
};

}  // namespace minicpm::check
