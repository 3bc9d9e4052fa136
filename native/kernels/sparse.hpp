// Compressed keys, what queries make of them, and the blocks that follow (InfLLM-V2, arXiv 2509.24663).
//
// Nothing here depends on how many queries or tokens come at once: each sum has one order.

#pragma once

#include "kernels/attention.hpp"

namespace minicpm {
namespace MC_ISA {

// ---- making compressed keys ----

// Sums of dimensions e and e + 1 of the keys in lanes [first, last) of one run of sixteen, lane by lane.
MC_INLINE Pairs window_part(const KvPages& kv, const Plane& plane, int64_t page, int head, int sub, int e) {
  const uint8_t* data = kv.data(plane, page, head);
  const int64_t at = (static_cast<int64_t>(sub) * kv.width + e) * 16;
  if (kv.format == KvFormat::bf16) return load_pairs(reinterpret_cast<const uint16_t*>(data) + at);
  const auto* keys = reinterpret_cast<const int8_t*>(data) + at;
  const f32x16 scale = load(kv.scales(plane, page, head) + 16 * sub);
  return {load_int8(keys) * scale, load_int8(keys + 16) * scale};
}

// The compressed key of a sequence's slot, whose window is written.
static void compress_slot(const KvPages& kv, const Compressed& compressed, int head, const int32_t* pages,
                          int64_t slot) {
  const SparseRule& rule = compressed.rule;
  const Plane& plane = kv.choosing();
  const int64_t end = (slot + 1) * rule.kernel_stride, start = end - rule.kernel_size;
  uint16_t* key = compressed.at(kv, pages[slot / rule.slots()], head) + slot % rule.slots() * 2;
  const float share = 1.0f / static_cast<float>(rule.kernel_size);
  for (int e = 0; e < kv.width; e += 2, key += 2 * rule.slots()) {
    f32x16 first = {}, second = {};
    for (int64_t token = start / 16 * 16; token < end; token += 16) {
      Pairs part = window_part(kv, plane, pages[token / kPage], head, static_cast<int>(token % kPage / 16), e);
      if (token < start || token + 16 > end) {
        const int skip = token < start ? static_cast<int>(start - token) : 0;
        const int stop = token + 16 > end ? static_cast<int>(end - token) : 16;
        part.first = first_lanes(f32x16{}, skip, first_lanes(part.first, stop, f32x16{}));
        part.second = first_lanes(f32x16{}, skip, first_lanes(part.second, stop, f32x16{}));
      }
      first += part.first;
      second += part.second;
    }
    key[0] = float_to_bf16(sum(first) * share);
    key[1] = float_to_bf16(sum(second) * share);
  }
}

// ---- scores ----

// How far ahead of their use slots are fetched.
constexpr int64_t kSlotsAhead = 64;

// Slots slot .. slot + 15 of a sequence as sixteen keys of a Bf16Page; of its last page again beyond it.
template <int run>
static void gather_slots(const KvPages& kv, const Compressed& compressed, int head, const int32_t* pages,
                         int64_t page_count, int64_t slot, uint16_t* keys) {
  const int slots = compressed.rule.slots();
  const uint16_t* from[16 / run];
  for (int i = 0; i < 16 / run; i++) {
    const int64_t first = slot + i * run, page = first / slots;
    from[i] = compressed.at(kv, pages[page < page_count ? page : page_count - 1], head) + first % slots * 2;
  }
#if defined(__AVX512F__)
  if constexpr (run == 4) {
    const uint16_t *p0 = from[0], *p1 = from[1], *p2 = from[2], *p3 = from[3];
    const auto quarter = [](const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); };
    for (int64_t at = 0; at < 4 * kv.width; at += 8, keys += 32) {
      const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(p0 + at)), quarter(p1 + at), 1);
      const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(p2 + at)), quarter(p3 + at), 1);
      _mm512_storeu_si512(keys, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
    }
    return;
  }
#endif
  for (int64_t at = 0; at < static_cast<int64_t>(slots) * kv.width; at += 2 * slots, keys += 32)
    for (int i = 0; i < 16 / run; i++) memcpy(keys + i * run * 2, from[i] + at, run * 4);
}

static void gather_slots(const KvPages& kv, const Compressed& compressed, int head, const int32_t* pages,
                         int64_t page_count, int64_t slot, uint16_t* keys) {
  switch (compressed.rule.slots()) {
    case 1: return gather_slots<1>(kv, compressed, head, pages, page_count, slot, keys);
    case 2: return gather_slots<2>(kv, compressed, head, pages, page_count, slot, keys);
    case 4: return gather_slots<4>(kv, compressed, head, pages, page_count, slot, keys);
    case 8: return gather_slots<8>(kv, compressed, head, pages, page_count, slot, keys);
    default: return gather_slots<16>(kv, compressed, head, pages, page_count, slot, keys);
  }
}

// Keys of slots, in the layout of a Bf16Page; what lies `kSlotsAhead` further is fetched meanwhile.
struct SlotPage {
  const uint16_t* k;
  const uint16_t* const* ahead;  // [width / 2] pieces of 128 bytes
  int width;

  inline __attribute__((always_inline)) Pairs keys(int sub, int e) const {
    return load_pairs(k + (sub * width + e) * 16);
  }
  inline __attribute__((always_inline)) void fetch(int number) const {
    const uint16_t* piece = ahead[number / 32];
    prefetch_far(piece);
    prefetch_far(piece + 32);
  }
};

// The pieces of the pages that hold slots slot .. slot + 31, those of the last page again beyond it.
static void find_pieces(const KvPages& kv, const Compressed& compressed, int head, const int32_t* pages,
                        int64_t page_count, int64_t slot, const uint16_t** pieces) {
  const int64_t slots = compressed.rule.slots(), numbers = slots * kv.width;
  int64_t page = slot / slots;
  for (int i = 0; i < kv.width / 2; page++) {
    const uint16_t* keys = compressed.at(kv, pages[page < page_count ? page : page_count - 1], head);
    for (int64_t at = 0; at < numbers && i < kv.width / 2; at += 64) pieces[i++] = keys + at;
  }
}

template <int rows, class Page>
static void score_slots_panel(const Page& page, const float* q, float* scores, int64_t stride) {
  alignas(64) float s[rows * kPage];
  score_panel<rows, 2>(page, 0, q, s);
  for (int m = 0; m < rows; m++) {
    store(scores + m * stride, load(s + m * kPage));
    store(scores + m * stride + 16, load(s + m * kPage + 16));
  }
}

// Scores of slots [first, last) for the runs [run, run + count) of a tile whose queries are apart, into scores
// [rows of these runs][stride]. `first` is a multiple of 32, and 32 at a time are written. `keys` has room for
// [2][width / 2][16][2].
static void score_slots(const KvPages& kv, const Compressed& compressed, int head, const int32_t* pages,
                        int64_t first, int64_t last, const QueryTile& tile, int run, int count, float* scores,
                        int64_t stride, uint16_t* keys) {
  const int64_t slots = compressed.rule.slots(), page_count = (last + slots - 1) / slots;
  const int64_t room = panel_rows(tile.group);
  const uint16_t *pieces[kMostHeadWidth / 2], *nothing[kMostHeadWidth / 2];
  for (int i = 0; i < kv.width / 2; i++) nothing[i] = keys;
  for (int64_t slot = first; slot < last; slot += 32) {
    find_pieces(kv, compressed, head, pages, page_count, slot + kSlotsAhead, pieces);
    gather_slots(kv, compressed, head, pages, page_count, slot, keys);
    gather_slots(kv, compressed, head, pages, page_count, slot + 16, keys + 16 * kv.width);
    SlotPage page = {keys, pieces, kv.width};
    float* out = scores + slot;
    for (int j = run; j < run + count; j++) {
      int64_t row = j * room;
      for (int left = tile.group; left > 0;) {
        const int size = panel_size(left);
        const float* q = tile.q + row * tile.width;
#define MC_SCORE(n) score_slots_panel<n>(page, q, out, stride)
        MC_PANELS(MC_SCORE)
#undef MC_SCORE
        page.ahead = nothing;
        row += size;
        left -= size;
        out += size * stride;
      }
    }
  }
}

// ---- the choice ----

// Softmax of each of `rows` rows of scores over slots [first, last), summed over the rows: sums [to a multiple of 32],
// 0 elsewhere. The scores are lost.
static void sum_softmax(float* scores, int64_t stride, int rows, int64_t first, int64_t last, float* sums) {
  const int64_t end = (last + 15) / 16 * 16;
  for (int64_t i = 0; i < end; i += 16) store(sums + i, f32x16{});
  if (first >= last) return;
  for (int m = 0; m < rows; m++) {
    float* s = scores + m * stride;
    for (int64_t i = 0; i < first; i++) s[i] = -INFINITY;
    for (int64_t i = last; i < end; i++) s[i] = -INFINITY;
    f32x16 most = set(kNoPeak);
    for (int64_t i = 0; i < end; i += 16) most = max(most, load(s + i));
    const f32x16 peak = set(largest(most));
    f32x16 total = {};
    for (int64_t i = 0; i < end; i += 16) {
      const f32x16 weight = exp2(load(s + i) - peak);
      total += weight;
      store(s + i, weight);
    }
    const f32x16 inverse = set(1.0f / sum(total));
    for (int64_t i = 0; i < end; i += 16) store(sums + i, fma(load(s + i), inverse, load(sums + i)));
  }
}

// Bits of numbers of which none is below 0, and so ordered as they are: how many of [count] are at least `level`.
static int64_t count_from(const float* x, int64_t count, uint32_t level) {
  i32x16 found = {};
  const i32x16 least = set_int(static_cast<int32_t>(level));
  for (int64_t i = 0; i < count; i += 16) {
    i32x16 bits;
    memcpy(&bits, x + i, sizeof bits);
    found -= bits >= least;
  }
  int32_t parts[16];
  memcpy(parts, &found, sizeof parts);
  int64_t all = 0;
  for (int32_t part : parts) all += part;
  return all;
}

// The `budget` largest of [count] numbers, an earlier one first where they are equal, in order: their places. What
// fills x to a multiple of 16 is overwritten.
static int choose_largest(float* x, int64_t count, int budget, int32_t* places) {
  const int64_t end = (count + 15) / 16 * 16;
  for (int64_t i = count; i < end; i++) x[i] = -1.0f;  // below all levels
  uint32_t level = 0;  // the largest level that enough numbers reach
  for (uint32_t bit = 1u << 30; bit; bit >>= 1)
    if (count_from(x, end, level | bit) >= budget) level |= bit;
  int64_t room = budget - count_from(x, end, level + 1);
  int chosen = 0;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    if (bits < level || (bits == level && room-- <= 0)) continue;
    places[chosen++] = static_cast<int32_t>(i);
  }
  return chosen;
}

// The largest of the sums of a block's slots and of those whose windows reach into it.
static void pool_blocks(const float* sums, int64_t blocks, int slots, int before, float* pooled) {
  for (int64_t b = 0; b < blocks; b++) {
    const float* s = sums + b * slots;
    float most = s[0];
    for (int i = 1; i < slots + before; i++) most = s[i] > most ? s[i] : most;
    pooled[b] = most;
  }
}

// The blocks that the query at `position` attends to, in order; their number is returned. `scores` [rows][stride] are
// those of all slots it sees, and are lost. `room` holds the sums of slots and the scores of blocks.
static int choose_blocks(const SparseRule& rule, int64_t position, float* scores, int64_t stride, int rows, float* room,
                         int32_t* blocks) {
  const int64_t count = position / kPage + 1, first = rule.before(), last = rule.seen_slots(position);
  float* sums = room;
  const int64_t read = count * rule.slots() + rule.before();
  float* pooled = sums + (read + 31) / 16 * 16;
  sum_softmax(scores, stride, rows, first, last, sums);
  for (int64_t i = (last + 15) / 16 * 16; i < read; i++) sums[i] = 0;
  if (rule.slots() == 4 && rule.before() == 1)
    pool_blocks(sums, count, 4, 1, pooled);
  else
    pool_blocks(sums, count, rule.slots(), rule.before(), pooled);
  for (int64_t b = 0; b < rule.init_blocks && b < count; b++) pooled[b] = INFINITY;
  for (int64_t b = count - rule.local_blocks > 0 ? count - rule.local_blocks : 0; b < count; b++) pooled[b] = INFINITY;
  const int budget = count < rule.chosen_blocks ? static_cast<int>(count) : rule.chosen_blocks;
  return choose_largest(pooled, count, budget, blocks);
}

}  // namespace MC_ISA
}  // namespace minicpm
