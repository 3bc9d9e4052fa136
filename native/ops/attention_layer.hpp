// Softmax attention with what stands around it: norm, products, rotation, cache, gate, residual.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/arena.hpp"
#include "core/matrix.hpp"
#include "core/pages.hpp"
#include "core/pool.hpp"

namespace minicpm {

// What all layers of one forward share. Angles are float32 [rows][half], half of the width that is rotated.
struct Step {
  int32_t rows;
  const float* cos;
  const float* sin;
  int32_t half;
  std::vector<Segment> segments;

  Segments all() const { return {segments.data(), static_cast<int32_t>(segments.size())}; }
};

// h += residual_scale * output(attention(x)), x = rms_norm(h) * norm, for h bfloat16 [rows][hidden].
class AttentionLayer {
 public:
  struct Shape {
    int32_t heads, kv_heads, width;
    bool rotary;
  };

  // `qkv` has the outputs of q, then k, then v; `gate`, where there is one, as many as q.
  AttentionLayer(std::vector<float> norm, float eps, const Shape& shape, const Matrix& qkv, const Matrix& output,
                 std::optional<Matrix> gate, std::optional<SparseRule> rule, float residual_scale);

  // `compressed` is null unless blocks are chosen.
  void run(Pool& pool, Scratch& scratch, uint16_t* h, const Step& step, const KvPages& kv,
           uint16_t* compressed) const;

 private:
  std::vector<float> norm_;
  float eps_;
  Shape shape_;
  Matrix qkv_, output_;
  std::optional<Matrix> gate_;
  std::optional<SparseRule> rule_;
  float residual_scale_;
};

}  // namespace minicpm
