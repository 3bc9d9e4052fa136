#include "check/checks.hpp"

namespace minicpm::check {

namespace {

constexpr LatentShape kShapes[] = {{5, 12, 8, 10, 32}, {4, 64, 32, 64, 256}, {3, 16, 34, 48, 80}};

// Queries at the last positions of `pages` pages of which the last holds `last` tokens.
void check_pages(Comparison& comparison, Random& random, const LatentShape& shape, int queries, int pages, int last) {
  const int rows = queries * shape.heads, panels = (rows + kLatentPanel - 1) / kLatentPanel;
  const int64_t length = int64_t{kLatentPage} * (pages - 1) + last;
  const Numbers q = random.normal(int64_t{panels} * kLatentPanel * shape.width());
  const Halves latents = random.bf16(length * shape.width());
  comparison.same("latent_page", {shape.heads, shape.width(), shape.rank, queries, length}, kSums,
                  [&](const Kernels& k) {
                    Numbers sums(static_cast<size_t>(rows) * static_cast<size_t>(shape.rank));
                    Numbers peak(static_cast<size_t>(rows), -1e30f), total(static_cast<size_t>(rows));
                    Numbers scratch(static_cast<size_t>(latent_scratch(shape)));
                    const LatentBlock block = {rows, shape.heads, length - queries, q.data(), sums.data(),
                                               peak.data(), total.data()};
                    for (int page = 0; page < pages; page++)
                      k.latent_page(shape, block, latents.data() + int64_t{page} * kLatentPage * shape.width(),
                                    int64_t{page} * kLatentPage, page + 1 < pages ? kLatentPage : last,
                                    scratch.data());
                    return joined(joined(sums, peak), total);
                  });
}

}  // namespace

void check_latent(Comparison& comparison) {
  Random random;
  for (const LatentShape& shape : kShapes) {
    const Halves u_k = random.bf16(int64_t{shape.nope} * shape.rank);
    const Halves u_v = random.bf16(int64_t{shape.value} * shape.rank);
    for (const int rows : {1, 4, 7}) {
      const int64_t stride = shape.nope + shape.rope;
      const Numbers x = random.normal(rows * stride), context = random.normal(int64_t{rows} * shape.rank);
      comparison.same("latent_absorb", {shape.nope, shape.rank, rows}, kSums, [&](const Kernels& k) {
        Numbers out(context.size());
        k.latent_absorb(u_k.data(), shape.nope, shape.rank, x.data(), stride, rows, out.data());
        return out;
      });
      comparison.same("latent_value", {shape.value, shape.rank, rows}, kSums, [&](const Kernels& k) {
        Numbers out(static_cast<size_t>(rows * shape.value));
        k.latent_value(u_v.data(), shape.value, shape.rank, context.data(), rows, out.data());
        return out;
      });
    }
    for (const int last : {1, 15, 63, 64})
      for (const int pages : {1, 3}) check_pages(comparison, random, shape, last < 4 ? 1 : 3, pages, last);
  }
}

}  // namespace minicpm::check
