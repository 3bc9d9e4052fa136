// The kernels of one instruction set. Each is called by one thread on its own part of the work.

#pragma once

#include <cstdint>

#include "core/latent.hpp"
#include "core/lightning.hpp"
#include "core/matrix.hpp"
#include "core/neurons.hpp"
#include "core/pages.hpp"
#include "core/query_tile.hpp"

namespace minicpm {

struct Kernels {
  const char* name;

  // float32 numbers [count] of bfloat16 ones, and the other way round.
  void (*widen)(const uint16_t* x, float* out, int64_t count);
  void (*narrow)(const float* x, uint16_t* out, int64_t count);

  // bfloat16 x [width] normalised to root mean square 1, times weight: float32 out [width].
  void (*rms_norm)(const uint16_t* x, const float* weight, float eps, int width, float* out);

  // x [inputs] as signed bytes with a scale per group, and the sum of each group's bytes.
  void (*quantize)(const float* x, int inputs, int group, int8_t* codes, float* scales, int32_t* sums);

  // Rows [0, rows) of x times the panels [first, last) of w. `scratch` holds at least matmul_scratch(w) bytes.
  void (*matmul)(const Matrix& w, const Activations& x, int rows, int64_t first, int64_t last, const Output& out,
                 uint8_t* scratch);

  // Turns the pairs (i, i + half) of x by the angles of its position.
  void (*rotate)(float* x, const float* cos, const float* sin, int half);

  // x *= sigmoid(gates)
  void (*gate)(float* x, const float* gates, int64_t count);

  // Tokens first .. first + count - 1 of a page of one key/value head, from rows `stride` apart. `unrotated` is read
  // where such keys are kept.
  void (*write_page)(const KvPages& kv, int64_t page, int head, int first, int count, const float* k, const float* v,
                     const float* unrotated, int64_t stride);

  // A tile's q from rows [queries][stride], the group's heads side by side, with nothing gathered yet. Without `out`
  // the tile is only scored with.
  void (*pack_queries)(const QueryTile& tile, const float* q, int64_t stride);

  // Attention of a tile over pages that `pages` locates by block. `wide` has room for [2][64][width].
  void (*attend_pages)(const KvPages& kv, int head, const QueryTile& tile, const int32_t* pages, const Visits& visits,
                       float* wide);

  // What a tile has gathered in `count` parts, into out rows [queries][stride].
  void (*finish_queries)(const QueryTile* parts, int count, float* out, int64_t stride);

  // The compressed key in a slot of a sequence.
  void (*compress_slot)(const KvPages& kv, const Compressed& compressed, int head, const int32_t* pages, int64_t slot);

  // Scores of slots [first, last), `first` a multiple of 32, for `count` queries of a tile from number `query` on:
  // [count * panel_rows(group)][stride], 32 slots at a time. `keys` has room for 32 keys.
  void (*score_slots)(const KvPages& kv, const Compressed& compressed, int head, const int32_t* pages, int64_t first,
                      int64_t last, const QueryTile& tile, int query, int count, float* scores, int64_t stride,
                      uint16_t* keys);

  // How many rows the panels of that many take.
  int (*panel_rows)(int rows);

  // The blocks that a query attends to, in order, from the scores [rows][stride] of all slots it sees, which are lost;
  // returns their number. `room` has as many numbers as the sequence has slots and blocks, and some more
  // (SparseAttending::choice_numbers).
  int (*choose_blocks)(const SparseRule& rule, int64_t position, float* scores, int64_t stride, int rows, float* room,
                       int32_t* blocks);

  // Limits for benchmarks: reads all of `bytes`, a multiple of 256; does multiply-adds of float32, and of bytes, and
  // returns how many operations these were.
  int64_t (*probe_read)(const uint8_t* data, int64_t bytes);
  int64_t (*probe_float)(const float* numbers, int64_t steps, float* out);
  int64_t (*probe_int8)(const uint8_t* codes, const int8_t* numbers, int64_t steps, int32_t* out);

  // Lightning attention of one head: a span of one token, or of up to kChunk. `scratch` has lightning_scratch floats.
  void (*lightning_step)(const LightningHead& head, const LightningSpan& span);
  void (*lightning_chunk)(const LightningHead& head, const LightningSpan& span, float* scratch);

  // x [rows][nope], x_row numbers apart, times u_k [nope][rank]: out [rows][rank].
  void (*latent_absorb)(const uint16_t* u_k, int nope, int rank, const float* x, int64_t x_row, int rows, float* out);

  // Reads `tokens` tokens of a page that begins at position `first`, for all rows of a block. `scratch` has
  // latent_scratch floats.
  void (*latent_page)(const LatentShape& shape, const LatentBlock& block, const uint16_t* data, int64_t first,
                      int tokens, float* scratch);

  // x [rows][rank] times u_v [value][rank] turned: out [rows][value].
  void (*latent_value)(const uint16_t* u_v, int value, int rank, const float* x, int rows, float* out);

  // Numbers of the neurons whose gate is above the threshold, in order; how many. `active` has room for `count`.
  int (*active_neurons)(const float* gate, int count, float threshold, int32_t* active);

  // inner[i] = gate[i] * (up_i . x) for the neurons active[first .. last).
  void (*neurons_up)(const NeuronRows& up, const Activations& x, const float* gate, const int32_t* active, int first,
                     int last, float* inner);

  // y[first .. last) = sum over the active neurons of inner_i * down_i.
  void (*neurons_down)(const NeuronRows& down, const Activations& inner, const int32_t* active, int count, int first,
                       int last, float* y);

  // h += scale * y, y rounded to bfloat16 first.
  void (*add_rounded)(const float* y, float scale, int count, uint16_t* h);
};

// Bytes of scratch that `matmul` needs at most.
int64_t matmul_scratch(const Matrix& w);

// The kernels in use: the best this processor has, or those MINICPM_ISA names.
const Kernels& kernels();

// Names of the instruction sets that were compiled and that this processor has, best first.
int available(const Kernels** found, int room);

// Chooses by name; false where it is not available.
bool choose_kernels(const char* name);

}  // namespace minicpm
