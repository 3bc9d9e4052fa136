#include "check/checks.hpp"
#include "check/paged.hpp"

namespace minicpm::check {

namespace {

struct Shape {
  KvFormat format;
  int width, group, length, kernel_size, kernel_stride;
};

constexpr Shape kShapes[] = {
    {KvFormat::bf16, 64, 4, 1000, 32, 16}, {KvFormat::bf16, 16, 1, 65, 64, 64}, {KvFormat::bf16, 48, 5, 300, 32, 32},
    {KvFormat::int8, 64, 16, 700, 16, 8},  {KvFormat::int8, 128, 2, 200, 8, 4}, {KvFormat::int8, 64, 4, 1000, 32, 16},
};
constexpr int kQueries = 3;

SparseRule rule_of(const Shape& shape) { return {shape.kernel_size, shape.kernel_stride, 1, 2, 6, 0}; }

Halves compressed_keys(const Kernels& k, const PagedSequence& sequence, const SparseRule& rule) {
  Halves keys(static_cast<size_t>(int64_t{sequence.pages()} * kKvHeads * sequence.kv().width * rule.slots()));
  for (int64_t slot = rule.before(); slot < rule.seen_slots(sequence.length() - 1); slot++)
    k.compress_slot(sequence.kv(), {keys.data(), rule}, kHead, sequence.table(), slot);
  return keys;
}

// Scores of the last queries, [queries][group][seen slots].
Numbers slot_scores(const Kernels& k, const PagedSequence& sequence, const Shape& shape, Halves keys,
                    const Numbers& q) {
  const SparseRule rule = rule_of(shape);
  const int64_t seen = rule.seen_slots(shape.length - 1), stride = (seen + 31) / 32 * 32;
  const int64_t rows = k.panel_rows(shape.group);
  const Tile room(kQueries, shape.group, shape.width, true, shape.length - kQueries);
  k.pack_queries(room.tile(), q.data(), int64_t{shape.group} * shape.width);
  Numbers scores(static_cast<size_t>(kQueries * rows * stride)), all;
  Halves gathered(static_cast<size_t>(32 * shape.width));
  k.score_slots(sequence.kv(), {keys.data(), rule}, kHead, sequence.table(), 0, seen, room.tile(), 0, kQueries,
                scores.data(), stride, gathered.data());
  for (int64_t query = 0; query < kQueries; query++)
    for (int64_t m = 0; m < shape.group; m++) {
      const auto row = scores.begin() + (query * rows + m) * stride;
      all.insert(all.end(), row, row + seen);
    }
  return all;
}

Numbers blocks(const Kernels& k, const SparseRule& rule, int64_t position, Numbers scores, int64_t stride, int rows) {
  const int64_t pages = position / kPage + 1;
  Numbers room(static_cast<size_t>(stride + kPage + rule.before() + 2 * pages + 64));
  std::vector<int32_t> chosen(static_cast<size_t>(rule.chosen_blocks));
  const int count = k.choose_blocks(rule, position, scores.data(), stride, rows, room.data(), chosen.data());
  chosen.resize(static_cast<size_t>(count));
  return numbers(chosen);
}

}  // namespace

void check_sparse(Comparison& comparison) {
  Random random;
  for (const Shape& shape : kShapes) {
    const SparseRule rule = rule_of(shape);
    const PagedSequence sequence(comparison.trusted(), random, shape.format, shape.width, shape.length, true);
    comparison.same("compress_slot", {shape.width, shape.length, shape.kernel_stride}, kRounded,
                    [&](const Kernels& k) { return widened(compressed_keys(k, sequence, rule)); });
    const Halves keys = compressed_keys(comparison.trusted(), sequence, rule);
    const Numbers q = random.normal(int64_t{kQueries} * shape.group * shape.width);
    comparison.same("score_slots", {shape.width, shape.group, shape.length, shape.kernel_stride}, kSums,
                    [&](const Kernels& k) { return slot_scores(k, sequence, shape, keys, q); });
    const int64_t stride = (rule.seen_slots(shape.length - 1) + 31) / 32 * 32;
    const Numbers scores = random.normal(shape.group * stride);
    for (const int64_t position : {int64_t{0}, int64_t{63}, int64_t{shape.length} - 1})
      if (position < shape.length)
        comparison.same("choose_blocks", {shape.group, shape.length, shape.kernel_stride, position}, kExact,
                        [&](const Kernels& k) { return blocks(k, rule, position, scores, stride, shape.group); });
  }
}

}  // namespace minicpm::check
