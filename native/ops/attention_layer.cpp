#include "ops/attention_layer.hpp"

#include <cstring>
#include <utility>

#include "ops/attention.hpp"
#include "ops/linear.hpp"
#include "ops/sparse.hpp"

namespace minicpm {

AttentionLayer::AttentionLayer(std::vector<float> norm, float eps, const Shape& shape, const Matrix& qkv,
                               const Matrix& output, std::optional<Matrix> gate, std::optional<SparseRule> rule,
                               float residual_scale)
    : norm_(std::move(norm)),
      eps_(eps),
      shape_(shape),
      qkv_(qkv),
      output_(output),
      gate_(gate),
      rule_(rule),
      residual_scale_(residual_scale) {}

void AttentionLayer::run(Pool& pool, Scratch& scratch, uint16_t* h, const Step& step, const KvPages& kv,
                         uint16_t* compressed) const {
  const int rows = step.rows, threads = pool.threads(), hidden = qkv_.inputs;
  const int64_t queries = static_cast<int64_t>(shape_.heads) * shape_.width;
  const int64_t keys = static_cast<int64_t>(shape_.kv_heads) * shape_.width, all = queries + 2 * keys;
  const bool keeps_unrotated = kv.unrotated.data != nullptr;
  const Compressed slots = {compressed, rule_.value_or(SparseRule{})};

  struct Parts {
    Inputs x, mixed_in;
    Unpacking unpack_qkv, unpack_gate, unpack_output;
    float *qkv, *unrotated, *mixed, *gate;
    std::optional<Attending> dense;
    std::optional<SparseAttending> sparse;
  };
  const auto cut = [&](Frame& frame) {
    Parts parts{Inputs(frame, qkv_, rows, threads),
                Inputs(frame, output_, rows, threads),
                Unpacking(frame, qkv_, threads),
                Unpacking(frame, gate_ ? *gate_ : qkv_, threads),
                Unpacking(frame, output_, threads),
                frame.take<float>(rows * all),
                frame.take<float>(keeps_unrotated ? rows * all : 0),
                frame.take<float>(rows * queries),
                frame.take<float>(gate_ ? rows * queries : 0),
                std::nullopt,
                std::nullopt};
    if (rule_)
      parts.sparse.emplace(frame, kv, slots, step.all(), shape_.heads, threads);
    else
      parts.dense.emplace(frame, kv, step.all(), shape_.heads, threads);
    return parts;
  };
  Frame measure;
  cut(measure);
  const auto held = scratch.hold();
  Frame frame(scratch.take(measure.used()));
  const Parts parts = cut(frame);

  const FloatRows q = {parts.qkv, all}, k = {parts.qkv + queries, all}, v = {parts.qkv + queries + keys, all};
  const FloatRows raw_q = keeps_unrotated ? FloatRows{parts.unrotated, all} : q;
  const FloatRows raw_k = keeps_unrotated ? FloatRows{parts.unrotated + queries, all} : k;
  const FloatRows out = {parts.mixed, queries};
  pool.run([&](Team& team) {
    const Activations x = parts.x.stage(team, [&](int64_t row, float* to) {
      kernels().rms_norm(h + row * hidden, norm_.data(), eps_, hidden, to);
    });
    multiply(team, qkv_, x, rows, {Finish::store, parts.qkv, all, 1.0f}, parts.unpack_qkv);
    if (gate_) multiply(team, *gate_, x, rows, {Finish::store, parts.gate, queries, 1.0f}, parts.unpack_gate);
    team.barrier();
    if (shape_.rotary) {
      const int heads = shape_.heads + shape_.kv_heads;
      const auto range = team.share(static_cast<int64_t>(rows) * heads);
      for (int64_t i = range.first; i < range.last; i++) {
        const int64_t row = i / heads, column = i % heads * shape_.width;
        float* head = parts.qkv + row * all + column;
        if (keeps_unrotated)
          std::memcpy(parts.unrotated + row * all + column, head, static_cast<size_t>(shape_.width) * sizeof(float));
        kernels().rotate(head, step.cos + row * step.half, step.sin + row * step.half, step.half);
      }
      team.barrier();
    }
    write(team, kv, step.all(), k, v, raw_k);
    team.barrier();
    if (rule_) {
      compress(team, kv, slots, step.all());
      team.barrier();
      parts.sparse->attend(team, q, raw_q, out);
    } else {
      parts.dense->attend(team, q, out);
    }
    const Activations mixed = parts.mixed_in.stage(team, [&](int64_t row, float* to) {
      const auto bytes = static_cast<size_t>(queries) * sizeof(float);
      std::memcpy(to, parts.mixed + row * queries, bytes);
      if (gate_) kernels().gate(to, parts.gate + row * queries, queries);
    });
    multiply(team, output_, mixed, rows, {Finish::residual, h, hidden, residual_scale_}, parts.unpack_output);
  });
}

}  // namespace minicpm
