#include "ops/latent.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/table.hpp"
#include "ops/frame.hpp"

namespace minicpm {

namespace {

constexpr int kMostQueries = 8;    // of a block: their sums stay in the second-level cache
constexpr float kUnread = -1e30f;  // the peak of a row that has read nothing

// Queries of one segment that read its pages together.
struct Work {
  const LatentSegment* segment;
  int64_t row, count, position;
  int64_t pages, before;  // pages to read, and those of all earlier work

  int64_t seen() const { return position + count; }
};

std::vector<Work> cut(const std::vector<LatentSegment>& segments) {
  std::vector<Work> all;
  int64_t before = 0;
  for (const LatentSegment& segment : segments)
    for (int64_t done = 0; done < segment.count; done += kMostQueries) {
      const int64_t count = std::min<int64_t>(kMostQueries, segment.count - done);
      const int64_t position = segment.length - segment.count + done;
      const int64_t pages = (position + count + kLatentPage - 1) / kLatentPage;
      all.push_back({&segment, segment.row + done, count, position, pages, before});
      before += pages;
    }
  return all;
}

// What one call works in. Threads read contiguous runs of all pages, so thread t's part of work w has slot w + t.
struct Room {
  int64_t rows;  // of a block, a whole number of panels
  float *q, *sums, *peak, *total, *page, *narrow;

  Room(Frame& frame, const LatentShape& s, int64_t work, int64_t queries, int threads)
      : rows((queries * s.heads + kLatentPanel - 1) / kLatentPanel * kLatentPanel) {
    const int64_t slots = work + threads - 1;
    q = frame.take<float>(work * rows * s.width());
    sums = frame.take<float>(slots * rows * s.rank);
    peak = frame.take<float>(slots * rows);
    total = frame.take<float>(slots * rows);
    page = frame.take<float>(threads * latent_scratch(s));
    narrow = frame.take<float>(threads * row_room(s));
  }

  // Rows of one head's queries: as they come, in the space of the latents, and results.
  static int64_t row_room(const LatentShape& s) {
    return kMostQueries * (std::max(s.nope + s.rope, s.value) + 16 + static_cast<int64_t>(s.rank));
  }
};

class Run {
 public:
  Run(const LatentShape& shape, const Room& room, const std::vector<Work>& work, const HeadRows& q,
      const HeadRows& out)
      : s_(shape), room_(room), work_(work), q_(q), out_(out) {}

  // Queries of these heads in the space of the latents, scaled, into the panels of their blocks.
  void absorb(Team& team, const uint16_t* u_k, int64_t stride) const {
    const auto heads = team.share(s_.heads);
    float* x = narrow(team);
    float* moved = x + kMostQueries * (s_.nope + s_.rope);
    const float scale = 1.44269504088896341f / std::sqrt(static_cast<float>(s_.nope + s_.rope));
    for (int64_t head = heads.first; head < heads.last; head++)
      for (size_t w = 0; w < work_.size(); w++) {
        const int queries = static_cast<int>(work_[w].count), width = s_.nope + s_.rope;
        for (int i = 0; i < queries; i++) {
          widen_row(q_, work_[w].row + i, head, x + i * width);
          for (int e = 0; e < width; e++) x[i * width + e] *= scale;
        }
        kernels().latent_absorb(u_k + head * stride, s_.nope, s_.rank, x, width, queries, moved);
        for (int i = 0; i < queries; i++) {
          const int64_t row = i * s_.heads + head;
          float* panel = room_.q + (static_cast<int64_t>(w) * room_.rows + row / kLatentPanel * kLatentPanel) * s_.width() +
                         row % kLatentPanel;
          for (int e = 0; e < s_.rank; e++) panel[e * kLatentPanel] = moved[i * s_.rank + e];
          panel += static_cast<int64_t>(s_.rank) * kLatentPanel;
          for (int e = 0; e < s_.rope; e++) panel[e * kLatentPanel] = x[i * width + s_.nope + e];
        }
      }
  }

  // This thread's run of all pages.
  void read(Team& team, const uint16_t* latents) const {
    const Work& last = work_.back();
    const auto range = team.share(last.before + last.pages);
    for (size_t w = 0; w < work_.size(); w++) {
      const Work& work = work_[w];
      const int64_t from = std::max(range.first, work.before) - work.before;
      const int64_t to = std::min(range.last, work.before + work.pages) - work.before;
      if (from >= to) continue;
      const LatentBlock block = started(w, team.index);
      for (int64_t i = from; i < to; i++) {
        const int64_t page = work.segment->pages ? work.segment->pages[i] : i;
        const int64_t first = i * kLatentPage;
        const int tokens = static_cast<int>(std::min<int64_t>(kLatentPage, work.seen() - first));
        kernels().latent_page(s_, block, latents + page * kLatentPage * s_.width(), first, tokens,
                              room_.page + team.index * latent_scratch(s_));
      }
    }
  }

  // What all threads have read for these heads, through each head's values.
  void finish(Team& team, const uint16_t* u_v, int64_t stride) const {
    const auto heads = team.share(s_.heads);
    float* context = narrow(team);
    float* values = context + static_cast<int64_t>(kMostQueries) * s_.rank;
    for (int64_t head = heads.first; head < heads.last; head++)
      for (size_t w = 0; w < work_.size(); w++) {
        const int queries = static_cast<int>(work_[w].count);
        for (int i = 0; i < queries; i++) merge(w, team.count, i * s_.heads + head, context + i * s_.rank);
        kernels().latent_value(u_v + head * stride, s_.value, s_.rank, context, queries, values);
        for (int i = 0; i < queries; i++) narrow_row(values + i * s_.value, out_, work_[w].row + i, head);
      }
  }

 private:
  float* narrow(const Team& team) const { return room_.narrow + team.index * Room::row_room(s_); }

  static void widen_row(const HeadRows& x, int64_t token, int64_t head, float* row) {
    if (x.half)
      kernels().widen(x.half_at(token, head), row, x.width);
    else
      std::copy_n(x.wide_at(token, head), x.width, row);
  }

  static void narrow_row(const float* row, const HeadRows& x, int64_t token, int64_t head) {
    if (x.half)
      kernels().narrow(row, static_cast<uint16_t*>(x.at(token, head)), x.width);
    else
      std::copy_n(row, x.width, static_cast<float*>(x.at(token, head)));
  }

  LatentBlock started(size_t w, int thread) const {
    const int64_t slot = static_cast<int64_t>(w) + thread, rows = work_[w].count * s_.heads;
    const LatentBlock block = {static_cast<int32_t>(rows),
                               s_.heads,
                               work_[w].position,
                               room_.q + static_cast<int64_t>(w) * room_.rows * s_.width(),
                               room_.sums + slot * room_.rows * s_.rank,
                               room_.peak + slot * room_.rows,
                               room_.total + slot * room_.rows};
    std::fill_n(block.sums, rows * s_.rank, 0.0f);
    std::fill_n(block.peak, rows, kUnread);
    std::fill_n(block.total, rows, 0.0f);
    return block;
  }

  void merge(size_t w, int threads, int64_t row, float* context) const {
    const Work& work = work_[w];
    const Work& last = work_.back();
    const int64_t pages = last.before + last.pages;
    const auto read_some = [&](int thread) {
      return std::max(pages * thread / threads, work.before) <
             std::min(pages * (thread + 1) / threads, work.before + work.pages);
    };
    const auto place = [&](int thread) { return (static_cast<int64_t>(w) + thread) * room_.rows + row; };
    float peak = kUnread, total = 0;
    for (int t = 0; t < threads; t++)
      if (read_some(t)) peak = std::max(peak, room_.peak[place(t)]);
    std::fill_n(context, s_.rank, 0.0f);
    for (int t = 0; t < threads; t++) {
      if (!read_some(t) || room_.peak[place(t)] == kUnread) continue;
      const float weight = std::exp2(room_.peak[place(t)] - peak);
      const float* sums = room_.sums + place(t) * s_.rank;
      total += weight * room_.total[place(t)];
      for (int e = 0; e < s_.rank; e++) context[e] += weight * sums[e];
    }
    const float inverse = 1.0f / total;
    for (int e = 0; e < s_.rank; e++) context[e] *= inverse;
  }

  const LatentShape& s_;
  const Room& room_;
  const std::vector<Work>& work_;
  const HeadRows& q_;
  const HeadRows& out_;
};

}  // namespace

Latent::Latent(const LatentShape& shape, const uint16_t* u_k, const uint16_t* u_v, int64_t stride)
    : shape_(shape), u_k_(u_k), u_v_(u_v), stride_(stride) {}

void Latent::run(Pool& pool, Scratch& scratch, const HeadRows& q, const uint16_t* latents, const HeadRows& out,
                 const std::vector<LatentSegment>& segments) const {
  const std::vector<Work> work = cut(segments);
  if (work.empty()) return;
  int64_t queries = 0;
  for (const Work& one : work) queries = std::max(queries, one.count);
  const int64_t count = static_cast<int64_t>(work.size());
  Frame measure;
  Room(measure, shape_, count, queries, pool.threads());
  const auto held = scratch.hold();
  Frame frame(scratch.take(measure.used()));
  const Room room(frame, shape_, count, queries, pool.threads());
  const Run run(shape_, room, work, q, out);
  pool.run([&](Team& team) {
    run.absorb(team, u_k_, stride_);
    team.barrier();
    run.read(team, latents);
    team.barrier();
    run.finish(team, u_v_, stride_);
  });
}

}  // namespace minicpm
