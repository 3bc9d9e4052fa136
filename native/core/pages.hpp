// How keys and values lie in memory: pages of 64 tokens that sequences share.
//
// Page p of key/value head h begins at number (p * heads + h) * 64 * width of its plane. Within it, for token i and
// dimension e:
//
//   bf16   keys    [4 of 16 tokens][width / 2][16 tokens][2]   lanes are tokens
//          values  [32 of 2 tokens][width][2]                  lanes are dimensions
//   int8   keys    [4 of 16 tokens][width][16 tokens]          with a float32 scale per token and head,
//          values  [64 tokens][width]                          [pages][heads][64] in a plane of its own
//
// In bf16 the value beside the last one written is finite: zero, or what an earlier sequence left there.
//
// Compressed keys (InfLLM-V2) are bf16 [pages][heads][width / 2][slots][2], a slot per stride of tokens; a key lies
// in the slot of the last token of its window.

#pragma once

#include <cstdint>

namespace minicpm {

constexpr int kPage = 64;
constexpr int kMostHeadWidth = 512;

enum class KvFormat : int32_t { bf16 = 0, int8 = 1 };

// One number per token, head and dimension.
struct Plane {
  uint8_t* data;
  float* scales;  // int8 only
};

struct KvPages {
  KvFormat format;
  int32_t heads;
  int32_t width;    // numbers per head, a multiple of 16, at most kMostHeadWidth
  Plane k, v;
  Plane unrotated;  // keys before rotation, laid out as k; its data is null where they are not kept

  int64_t page_bytes() const { return static_cast<int64_t>(kPage) * width * (format == KvFormat::bf16 ? 2 : 1); }
  uint8_t* data(const Plane& plane, int64_t page, int head) const {
    return plane.data + (page * heads + head) * page_bytes();
  }
  float* scales(const Plane& plane, int64_t page, int head) const {
    return plane.scales ? plane.scales + (page * heads + head) * kPage : nullptr;
  }
  // The keys that blocks are chosen by.
  const Plane& choosing() const { return unrotated.data ? unrotated : k; }
};

// Which blocks a query attends to. A block is a page.
struct SparseRule {
  int32_t kernel_size;    // tokens in the mean that is a compressed key, a multiple of kernel_stride
  int32_t kernel_stride;  // divides 64
  int32_t init_blocks;    // always attended to, from the first
  int32_t local_blocks;   // always attended to, back from the query's own
  int32_t chosen_blocks;  // in all
  int64_t dense;          // positions below this attend to all before them

  int32_t slots() const { return kPage / kernel_stride; }
  int32_t before() const { return kernel_size / kernel_stride - 1; }  // slots before a sequence's first key
  int64_t seen_slots(int64_t position) const { return (position + 1) / kernel_stride; }
};

struct Compressed {
  uint16_t* keys;
  SparseRule rule;

  uint16_t* at(const KvPages& kv, int64_t page, int head) const {
    return keys + (page * kv.heads + head) * kv.width * rule.slots();
  }
};

// New tokens of one sequence: positions start .. start + count - 1, in rows row, row + 1, .. of what is passed in.
// `pages` are those of the sequence from its first token to its last.
struct Segment {
  int64_t start;
  int32_t count;
  int32_t row;
  const int32_t* pages;

  int64_t length() const { return start + count; }
};

struct Segments {
  const Segment* data;
  int32_t count;

  const Segment* begin() const { return data; }
  const Segment* end() const { return data + count; }
};

}  // namespace minicpm
