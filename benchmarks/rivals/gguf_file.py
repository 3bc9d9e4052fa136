"""Writes the shared random weights as a GGUF file of llama.cpp's architectures minicpm and minicpm3."""

from pathlib import Path

import gguf
import numpy as np

from rivals.weights import Raw, draw, head_dim, is_latent, shapes, to_float32

_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# The context a file allows; llama.cpp refuses none, and only warns beyond it.
_CONTEXT = 131072


def write(path: Path, raw: Raw) -> None:
    """A file in bfloat16, norms in float32; it appears under its name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "minicpm3" if is_latent(raw) else "minicpm")
    _add_sizes(writer, raw)
    _add_latent(writer, raw) if is_latent(raw) else _add_grouped(writer, raw)
    _add_rope(writer, raw)
    _add_vocabulary(writer, raw["vocab_size"])
    for name, shape in shapes(raw):
        _add_weight(writer, raw, name, draw(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def _add_sizes(writer: gguf.GGUFWriter, raw: Raw) -> None:
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(raw["hidden_size"])
    writer.add_block_count(raw["num_hidden_layers"])
    writer.add_feed_forward_length(raw["intermediate_size"])
    writer.add_head_count(raw["num_attention_heads"])
    writer.add_head_count_kv(raw["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(raw["rms_norm_eps"])
    writer.add_vocab_size(raw["vocab_size"])


def _add_grouped(writer: gguf.GGUFWriter, raw: Raw) -> None:
    writer.add_rope_dimension_count(head_dim(raw))
    writer.add_embedding_scale(float(raw["scale_emb"]))
    writer.add_residual_scale(raw["scale_depth"] / raw["num_hidden_layers"] ** 0.5)
    writer.add_logit_scale(raw["hidden_size"] / raw["dim_model_base"])


def _add_latent(writer: gguf.GGUFWriter, raw: Raw) -> None:
    """llama.cpp knows the three scales of this architecture by heart."""
    writer.add_q_lora_rank(raw["q_lora_rank"])
    writer.add_kv_lora_rank(raw["kv_lora_rank"])
    writer.add_key_length(raw["qk_nope_head_dim"] + raw["qk_rope_head_dim"])
    writer.add_rope_dimension_count(raw["qk_rope_head_dim"])


def _add_rope(writer: gguf.GGUFWriter, raw: Raw) -> None:
    writer.add_rope_freq_base(raw.get("rope_theta", 10000.0))
    scaling = raw.get("rope_scaling") or {}
    if "short_factor" not in scaling:
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    for length in ("short", "long"):
        factors = np.array(scaling[f"{length}_factor"], np.float32)
        writer.add_tensor(f"rope_factors_{length}.weight", factors)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """llama.cpp does not load a model without one; nothing is ever tokenized."""
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256
    tokens += [f"t{i}" for i in range(size - len(tokens))]
    types += [kinds.NORMAL] * (size - len(types))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _add_weight(writer: gguf.GGUFWriter, raw: Raw, name: str, values: np.ndarray) -> None:
    if values.ndim == 1:
        writer.add_tensor(_translated(name), to_float32(values))
        return
    if name.endswith("self_attn.q_proj.weight"):
        values = _paired(values, raw["num_attention_heads"])
    if name.endswith("self_attn.k_proj.weight"):
        values = _paired(values, raw["num_key_value_heads"])
    writer.add_tensor(_translated(name), values, raw_dtype=gguf.GGMLQuantizationType.BF16)


def _paired(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows i and i + d / 2 of each head beside each other, as this architecture rotates neighbours."""
    halves = values.reshape(heads, 2, -1, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _translated(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    _, _, layer, *middle, _ = name.split(".")
    return f"blk.{layer}.{_LAYER['.'.join(middle)]}.weight"
