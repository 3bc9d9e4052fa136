// Writing keys and values into pages, and attention of a tile of queries over pages.
//
// A panel of rows meets a page in three steps: scores of its 64 keys, weights (the softmax so far), weighted
// values. bfloat16 and int8 are widened to float32 on the way; where many rows read a page it is widened once.

#pragma once

#include "core/pages.hpp"
#include "core/query_tile.hpp"
#include "simd/simd.hpp"

namespace minicpm {
namespace MC_ISA {

// Rows of a panel: what fits the registers next to two vectors of keys.
#if defined(__AVX512F__)
constexpr int kPanelRows = 12;
#else
constexpr int kPanelRows = 3;
#endif
// From this many rows on a page is widened once into memory.
constexpr int kWidenRows = 4 * kPanelRows;
// Less than any score, but finite, so that differences are numbers.
constexpr float kNoPeak = -1e30f;

// ---- writing ----

// One row of numbers as token `i` of a page of keys.
static void write_key(const KvPages& kv, const Plane& plane, int64_t page, int head, int i, const float* x) {
  uint8_t* data = kv.data(plane, page, head);
  const int sub = i / 16, lane = i % 16;
  if (kv.format == KvFormat::bf16) {
    auto* keys = reinterpret_cast<uint16_t*>(data) + sub * kv.width * 16 + lane * 2;
    for (int e = 0; e < kv.width; e++) keys[e / 2 * 32 + e % 2] = float_to_bf16(x[e]);
    return;
  }
  float most = 0;
  for (int e = 0; e < kv.width; e++) most = x[e] > most ? x[e] : -x[e] > most ? -x[e] : most;
  const f32x16 inverse = set(most > 0 ? 127.0f / most : 0.0f);
  kv.scales(plane, page, head)[i] = most / 127.0f;
  auto* keys = reinterpret_cast<int8_t*>(data) + sub * kv.width * 16 + lane;
  for (int e = 0; e < kv.width; e += 16) {
    int32_t codes[16];
    const i32x16 rounded = to_int(round_even(load(x + e) * inverse));
    memcpy(codes, &rounded, sizeof codes);
    for (int j = 0; j < 16; j++) keys[(e + j) * 16] = static_cast<int8_t>(codes[j]);
  }
}

static void write_value(const KvPages& kv, int64_t page, int head, int i, const float* x) {
  uint8_t* data = kv.data(kv.v, page, head);
  if (kv.format == KvFormat::bf16) {
    auto* pairs = reinterpret_cast<uint16_t*>(data) + i / 2 * 2 * kv.width;
    for (int e = 0; e < kv.width; e += 16) {
      const u32x16 half = __builtin_convertvector(to_bf16(load(x + e)), u32x16);
      u32x16 both = half;  // a first token clears its neighbour, which may never have been written
      if (i % 2) {
        memcpy(&both, pairs + 2 * e, sizeof both);
        both = (both & 0xffff) | (half << 16);
      }
      memcpy(pairs + 2 * e, &both, sizeof both);
    }
    return;
  }
  f32x16 peak = {};
  for (int e = 0; e < kv.width; e += 16) peak = max(peak, abs(load(x + e)));
  const float most = largest(peak);
  const f32x16 inverse = set(most > 0 ? 127.0f / most : 0.0f);
  kv.scales(kv.v, page, head)[i] = most / 127.0f;
  auto* values = reinterpret_cast<int8_t*>(data) + i * kv.width;
  for (int e = 0; e < kv.width; e += 16) {
    const auto codes = __builtin_convertvector(to_int(round_even(load(x + e) * inverse)),
                                               int8_t __attribute__((vector_size(16))));
    memcpy(values + e, &codes, sizeof codes);
  }
}

static void write_page(const KvPages& kv, int64_t page, int head, int first, int count, const float* k,
                       const float* v, const float* unrotated, int64_t stride) {
  for (int i = 0; i < count; i++) {
    write_key(kv, kv.k, page, head, first + i, k + i * stride);
    write_value(kv, page, head, first + i, v + i * stride);
    if (kv.unrotated.data) write_key(kv, kv.unrotated, page, head, first + i, unrotated + i * stride);
  }
}

// ---- pages as the panels read them ----

// Of each: two dimensions of sixteen keys, or two tokens of sixteen dimensions of values. Meanwhile the page that is
// read next is fetched, its keys and values side by side and each strictly in order, which the processor's own
// prefetching follows: the first half while there are scores to make, the second with the values.
struct Bf16Page {
  static constexpr bool scaled = false;
  const uint16_t *k, *v;
  const uint16_t *next_k, *next_v;
  int width;
  const float *k_scales = nullptr, *v_scales = nullptr;

  inline __attribute__((always_inline)) Pairs keys(int sub, int e) const {
    return load_pairs(k + (sub * width + e) * 16);
  }
  inline __attribute__((always_inline)) Pairs values(int token, int e) const {
    return load_pairs(v + token * width + 2 * e);
  }
  inline __attribute__((always_inline)) void fetch(int number) const {
    prefetch_far(next_k + number);
    prefetch_far(next_v + number);
  }
  void end_panel() { next_k = k, next_v = v; }
};

struct Int8Page {
  static constexpr bool scaled = true;
  const int8_t *k, *v;
  const int8_t *next_k, *next_v;
  int width;
  const float *k_scales, *v_scales;

  inline __attribute__((always_inline)) Pairs keys(int sub, int e) const {
    const int8_t* p = k + (sub * width + e) * 16;
    return {load_int8(p), load_int8(p + 16)};
  }
  inline __attribute__((always_inline)) Pairs values(int token, int e) const {
    const int8_t* p = v + token * width + e;
    return {load_int8(p), load_int8(p + width)};
  }
  inline __attribute__((always_inline)) void fetch(int number) const {
    prefetch_far(next_k + number);
    prefetch_far(next_v + number);
  }
  void end_panel() { next_k = k, next_v = v; }
};

// Laid out as int8, scales multiplied in. Many panels read it, and each fetches a part of the next page.
struct WidePage {
  static constexpr bool scaled = false;
  const float *k, *v;
  const char *next_k, *next_v;
  int64_t fetched, part, bytes;
  int width;
  const float *k_scales = nullptr, *v_scales = nullptr;

  inline __attribute__((always_inline)) Pairs keys(int sub, int e) const {
    const float* p = k + (sub * width + e) * 16;
    return {load(p), load(p + 16)};
  }
  inline __attribute__((always_inline)) Pairs values(int token, int e) const {
    const float* p = v + token * width + e;
    return {load(p), load(p + width)};
  }
  inline __attribute__((always_inline)) void fetch(int) const {}
  void end_panel() {
    for (int64_t end = fetched + part; fetched < end && fetched < bytes; fetched += 64) {
      prefetch_far(next_k + fetched);
      prefetch_far(next_v + fetched);
    }
  }
};

// The first `tokens` of a page; a value beside the last one becomes 0.
template <class Page>
static void widen_page(const Page& page, int tokens, float* k, float* v) {
  const int width = page.width;
  for (int sub = 0; sub < (tokens + 15) / 16; sub++) {
    const f32x16 scale = Page::scaled ? load(page.k_scales + 16 * sub) : set(1.0f);
    for (int e = 0; e < width; e += 2) {
      Pairs keys = page.keys(sub, e);
      if (Page::scaled) keys.first *= scale, keys.second *= scale;
      store(k + (sub * width + e) * 16, keys.first);
      store(k + (sub * width + e + 1) * 16, keys.second);
    }
  }
  for (int token = 0; token < tokens; token += 2) {
    const bool whole = token + 1 < tokens;
    const f32x16 first = set(Page::scaled ? page.v_scales[token] : 1.0f);
    const f32x16 second = set(Page::scaled && whole ? page.v_scales[token + 1] : 1.0f);
    for (int e = 0; e < width; e += 16) {
      Pairs values = page.values(token, e);
      if (Page::scaled) values.first *= first, values.second *= second;
      store(v + token * width + e, values.first);
      store(v + (token + 1) * width + e, whole ? values.second : f32x16{});
    }
  }
}

// ---- a panel and a page ----

// Scores of the 16 * vectors keys from `sub` on: s [rows][64].
template <int rows, int vectors, class Page>
__attribute__((noinline)) static void score_panel(const Page& from, int sub, const float* q, float* s) {
  const Page page = from;
  f32x16 a[rows][vectors];
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) a[m][n] = f32x16{};
  for (int e = 0; e < page.width; e += 2, q += 2 * rows) {
    Pairs keys[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) keys[n] = page.keys(sub + n, e);
#pragma GCC unroll 4
    for (int n = 0; n < vectors / 2; n++) page.fetch((sub * page.width + e * vectors) * 8 + 32 * n);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const f32x16 first = set(q[m]);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++) a[m][n] = fma(keys[n].first, first, a[m][n]);
    }
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const f32x16 second = set(q[rows + m]);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++) a[m][n] = fma(keys[n].second, second, a[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) store(s + m * kPage + (sub + n) * 16, a[m][n]);
}

// out [rows][width] += weights p [rows][64] times values of `tokens` tokens, for 16 * vectors dimensions from e on.
template <int rows, int vectors, class Page>
__attribute__((noinline)) static void add_values(const Page& from, int e, int tokens, const float* p, float* out) {
  const Page page = from;
  f32x16 a[rows][vectors];
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) a[m][n] = load(out + m * page.width + e + n * 16);
  for (int token = 0; token < tokens; token += 2, p += 2) {
    Pairs values[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) values[n] = page.values(token, e + n * 16);
#pragma GCC unroll 4
    for (int n = 0; n < vectors / 2; n++) page.fetch((page.width + e) * 32 + token * vectors * 8 + 32 * n);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const f32x16 first = set(p[m * kPage]);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++) a[m][n] = fma(values[n].first, first, a[m][n]);
    }
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      const f32x16 second = set(p[m * kPage + 1]);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n++) a[m][n] = fma(values[n].second, second, a[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
    for (int n = 0; n < vectors; n++) store(out + m * page.width + e + n * 16, a[m][n]);
}

// The first row of a panel in the arrays of its tile.
struct PanelRows {
  const float* q;
  const int32_t* seen;
  float *out, *peak, *total;
};

// Scores of one row become weights, 0 from token `limit` on; what was gathered before is brought to the same peak.
template <class Page>
MC_INLINE void weigh_row(const Page& page, const PanelRows& rows, int m, int limit, float* s) {
  f32x16 score[4];
#pragma GCC unroll 4
  for (int n = 0; n < 4; n++) {
    score[n] = load(s + 16 * n);
    if (Page::scaled) score[n] *= load(page.k_scales + 16 * n);
    if (limit < kPage) score[n] = first_lanes(score[n], limit - 16 * n, set(-INFINITY));
  }
  const f32x16 most = max(max(score[0], score[1]), max(score[2], score[3]));
  float* total = rows.total + m * kLanes;
  if (any_above(most, rows.peak[m])) {
    const float peak = largest(most);
    const f32x16 factor = exp2(set(rows.peak[m] - peak));
    float* out = rows.out + static_cast<int64_t>(m) * page.width;
    for (int e = 0; e < page.width; e += kLanes) store(out + e, load(out + e) * factor);
    store(total, load(total) * factor);
    rows.peak[m] = peak;
  }
  const f32x16 peak = set(rows.peak[m]);
#pragma GCC unroll 4
  for (int n = 0; n < 4; n++) score[n] = exp2(score[n] - peak);
  store(total, load(total) + ((score[0] + score[1]) + (score[2] + score[3])));
#pragma GCC unroll 4
  for (int n = 0; n < 4; n++) {
    if (Page::scaled) score[n] *= load(page.v_scales + 16 * n);
    if (Page::scaled && limit < kPage) score[n] = first_lanes(score[n], limit - 16 * n, f32x16{});
    store(s + 16 * n, score[n]);
  }
}

// `first_token` is the position of the page's first.
template <int rows, class Page>
static void attend_panel(const Page& page, const PanelRows& panel, int64_t first_token) {
  alignas(64) float s[rows * kPage];
  constexpr int vectors = kPanelRows > 3 && rows <= 3 ? 4 : 2;
  const int64_t left = panel.seen[rows - 1] - first_token;
  const int tokens = left < kPage ? static_cast<int>(left) : kPage;
  for (int sub = 0; 16 * sub < tokens; sub += vectors) score_panel<rows, vectors>(page, sub, panel.q, s);
  for (int m = 0; m < rows; m++) {
    const int64_t limit = panel.seen[m] - first_token;
    weigh_row(page, panel, m, limit < kPage ? static_cast<int>(limit) : kPage, s + m * kPage);
  }
  int e = 0;
  for (; e + 16 * vectors <= page.width; e += 16 * vectors) add_values<rows, vectors>(page, e, tokens, s, panel.out);
  for (; e < page.width; e += 16) add_values<rows, 1>(page, e, tokens, s, panel.out);
}

// ---- panels of a tile ----

// Rows of the next panel where `left` are still to come: as even as can be, of a size there is code for.
MC_INLINE int panel_size(int left) {
  const int panels = (left + kPanelRows - 1) / kPanelRows;
  const int rows = (left + panels - 1) / panels;
  if (kPanelRows == 3 || rows <= 4) return rows;
  return rows <= 6 ? 6 : rows <= 8 ? 8 : 12;
}

static int panel_rows(int rows) {
  int all = 0;
  for (int left = rows; left > 0;) {
    const int size = panel_size(left);
    all += size;
    left -= size;
  }
  return all;
}

// Rows of one run of panels, without those that fill them, and how many runs there are.
MC_INLINE int run_rows(const QueryTile& tile) { return tile.apart ? tile.group : tile.queries * tile.group; }
MC_INLINE int runs(const QueryTile& tile) { return tile.apart ? tile.queries : 1; }

#define MC_PANELS(F)                                          \
  switch (size) {                                             \
    case 1: F(1); break;                                      \
    case 2: F(2); break;                                      \
    case 3: F(3); break;                                      \
    default:                                                  \
      if constexpr (kPanelRows > 3) {                         \
        if (size == 4) { F(4); }                              \
        else if (size == 6) { F(6); }                         \
        else if (size == 8) { F(8); }                         \
        else { F(12); }                                       \
      }                                                       \
  }

template <class Page>
static void attend_run(Page& page, const QueryTile& tile, int64_t row, int rows, int64_t first_token) {
  for (int left = rows; left > 0;) {
    const int size = panel_size(left);
    const PanelRows panel = {tile.q + row * tile.width, tile.seen + row, tile.out + row * tile.width,
                             tile.peak + row, tile.total + row * kLanes};
    if (panel.seen[size - 1] > first_token) {
#define MC_ATTEND(n) attend_panel<n>(page, panel, first_token)
      MC_PANELS(MC_ATTEND)
#undef MC_ATTEND
      page.end_panel();
    }
    row += size;
    left -= size;
  }
}

template <class Page>
static void attend_rows(Page& page, const QueryTile& tile, uint32_t queries, int64_t first_token) {
  const int rows = run_rows(tile);
  if (!tile.apart) return attend_run(page, tile, 0, rows, first_token);
  const int64_t room = panel_rows(rows);
  for (int j = 0; j < tile.queries; j++)
    if (queries >> j & 1) attend_run(page, tile, j * room, rows, first_token);
}

// `wide` is where a page shall be widened, [2][64][width], for `rows` rows; or null.
template <class Page>
static void attend_page(Page page, const QueryTile& tile, uint32_t queries, int64_t first_token, float* wide, int rows,
                        int64_t bytes) {
  if (!wide) return attend_rows(page, tile, queries, first_token);
  const int64_t left = tile.position + tile.queries - first_token;
  float* values = wide + kPage * tile.width;
  widen_page(page, left < kPage ? static_cast<int>(left) : kPage, wide, values);
  const int64_t part = bytes * kPanelRows / rows / 64 * 64 + 64;
  WidePage widened = {wide, values, reinterpret_cast<const char*>(page.next_k),
                      reinterpret_cast<const char*>(page.next_v), 0, part, bytes, tile.width};
  attend_rows(widened, tile, queries, first_token);
}

// q rows [queries][stride], the group's heads side by side, into panels; nothing gathered yet.
static void pack_queries(const QueryTile& tile, const float* q, int64_t stride) {
  const int rows = run_rows(tile), width = tile.width;
  const float scale = 1.44269504088896341f / std::sqrt(static_cast<float>(width));
  int64_t at = 0;
  for (int run = 0; run < runs(tile); run++)
    for (int first = 0; first < rows;) {
      const int size = panel_size(rows - first);
      float* panel = tile.q + at * width;
      for (int m = 0; m < size; m++) {
        const int row = first + m < rows ? first + m : rows - 1;
        const int query = run + row / tile.group;
        const float* x = q + query * stride + row % tile.group * width;
        for (int e = 0; e < width; e++) panel[e * size + m] = first + m < rows ? x[e] * scale : 0.0f;
        tile.seen[at + m] = static_cast<int32_t>(tile.position + query + 1);
      }
      at += size;
      first += size;
    }
  if (!tile.out) return;
  for (int64_t i = 0; i < at * width; i += kLanes) store(tile.out + i, f32x16{});
  for (int64_t i = 0; i < at; i++) {
    tile.peak[i] = kNoPeak;
    store(tile.total + i * kLanes, f32x16{});
  }
}

// Over the pages of `visits`, which `pages` locates. `wide` has room for [2][64][width].
static void attend_pages(const KvPages& kv, int head, const QueryTile& tile, const int32_t* pages,
                         const Visits& visits, float* wide) {
  for (int64_t i = 0; i < visits.count; i++) {
    const int64_t block = visits.blocks ? visits.blocks[i] : visits.first + i;
    const int64_t next = i + 1 == visits.count ? block : visits.blocks ? visits.blocks[i + 1] : block + 1;
    const uint32_t queries = visits.blocks ? visits.queries[i] : ~0u;
    const int readers = visits.blocks && tile.apart ? __builtin_popcount(queries) : tile.queries;
    const int rows = readers * tile.group;
    float* room = rows >= kWidenRows ? wide : nullptr;
    const uint8_t *k = kv.data(kv.k, pages[block], head), *v = kv.data(kv.v, pages[block], head);
    const uint8_t *next_k = kv.data(kv.k, pages[next], head), *next_v = kv.data(kv.v, pages[next], head);
    if (kv.format == KvFormat::bf16) {
      const Bf16Page page = {reinterpret_cast<const uint16_t*>(k), reinterpret_cast<const uint16_t*>(v),
                             reinterpret_cast<const uint16_t*>(next_k), reinterpret_cast<const uint16_t*>(next_v),
                             kv.width};
      attend_page(page, tile, queries, kPage * block, room, rows, kv.page_bytes());
    } else {
      const Int8Page page = {reinterpret_cast<const int8_t*>(k), reinterpret_cast<const int8_t*>(v),
                             reinterpret_cast<const int8_t*>(next_k), reinterpret_cast<const int8_t*>(next_v),
                             kv.width, kv.scales(kv.k, pages[block], head), kv.scales(kv.v, pages[block], head)};
      attend_page(page, tile, queries, kPage * block, room, rows, kv.page_bytes());
    }
  }
}

// The rows of a tile whose pages were read in `parts`, into out [queries][stride], the group's heads side by side.
static void finish_queries(const QueryTile* parts, int count, float* out, int64_t stride) {
  const QueryTile& tile = parts[0];
  const int rows = run_rows(tile), width = tile.width;
  const int64_t room = panel_rows(rows);
  for (int i = 0; i < rows * runs(tile); i++) {
    const int64_t row = i / rows * room + i % rows;
    float peak = kNoPeak, total = 0;
    for (int part = 0; part < count; part++) peak = parts[part].peak[row] > peak ? parts[part].peak[row] : peak;
    float* y = out + i / tile.group * stride + i % tile.group * width;
    for (int part = 0; part < count; part++) {
      const f32x16 factor = exp2(set(parts[part].peak[row] - peak));
      total += sum(load(parts[part].total + row * kLanes) * factor);
      const float* x = parts[part].out + row * width;
      for (int e = 0; e < width; e += kLanes) {
        const f32x16 sofar = part ? load(y + e) : f32x16{};
        store(y + e, fma(load(x + e), factor, sofar));
      }
    }
    const f32x16 inverse = set(total > 0 ? 1.0f / total : 0.0f);
    for (int e = 0; e < width; e += kLanes) store(y + e, load(y + e) * inverse);
  }
}

}  // namespace MC_ISA
}  // namespace minicpm
