#include "ops/lightning.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/table.hpp"

namespace minicpm {

Lightning::Lightning(const std::vector<float>& slopes, int shared, float scale)
    : heads_(static_cast<int>(slopes.size())), group_(heads_ / shared), scale_(scale) {
  for (float slope : slopes)
    for (int n = 0; n <= kChunk; n++) powers_.push_back(std::exp(-slope * static_cast<float>(n)));
}

namespace {

// One head's tokens of a span, chunk after chunk; after the first the state is replaced in its place.
void run_span(const LightningHead& head, LightningSpan span, float* scratch) {
  const int32_t end = span.count;
  for (int32_t done = 0; done < end; done += span.count, span.row += span.count, span.before = span.after) {
    span.count = std::min(kChunk, end - done);
    if (span.count == 1)
      kernels().lightning_step(head, span);
    else
      kernels().lightning_chunk(head, span, scratch);
  }
}

}  // namespace

void Lightning::run(Pool& pool, Scratch& scratch, const HeadRows& q, const HeadRows& k, const HeadRows& v,
                    const HeadRows& out, const std::vector<LightningSpan>& spans) const {
  const int64_t each = lightning_scratch(k.width, v.width), state = static_cast<int64_t>(k.width) * v.width;
  const auto held = scratch.hold();
  auto* room = reinterpret_cast<float*>(scratch.take(static_cast<size_t>(each * pool.threads()) * sizeof(float)));
  pool.run([&](Team& team) {
    const auto range = team.share(heads_);
    for (int64_t head = range.first; head < range.last; head++) {
      const int32_t number = static_cast<int32_t>(head);
      const LightningHead one = {q, k, v, out, number, number / group_, powers_.data() + head * (kChunk + 1), scale_};
      for (const LightningSpan& span : spans)
        run_span(one,
                 {span.row, span.count, span.before ? span.before + head * state : nullptr,
                  span.after + head * state},
                 room + team.index * each);
    }
  });
}

}  // namespace minicpm
