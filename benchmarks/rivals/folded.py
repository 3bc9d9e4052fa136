"""The shared random weights as a plain Llama of transformers, the three muP numbers folded into them."""

from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from rivals.weights import Raw, draw, head_dim, is_latent, is_tied, shapes, to_bfloat16, to_float32
from rivals.worker import Unsupported


def llama(raw: Raw) -> LlamaForCausalLM:
    """In bfloat16; raises Unsupported for what is not a Llama."""
    if is_latent(raw):
        raise Unsupported("latent attention is not a Llama's")
    model = LlamaForCausalLM(_config(raw)).to(torch.bfloat16)
    state = {name: _folded(raw, name, shape) for name, shape in shapes(raw)}
    if is_tied(raw):
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def _config(raw: Raw) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_hidden_layers=raw["num_hidden_layers"],
        num_attention_heads=raw["num_attention_heads"],
        num_key_value_heads=raw["num_key_value_heads"],
        head_dim=head_dim(raw),
        max_position_embeddings=raw["max_position_embeddings"],
        rms_norm_eps=raw["rms_norm_eps"],
        tie_word_embeddings=is_tied(raw),
        attn_implementation="sdpa",
        **_rope(raw),
    )


def _rope(raw: Raw) -> dict[str, Any]:
    scaling = raw.get("rope_scaling") or {}
    rope: dict[str, Any] = {"rope_type": "default"}
    if "short_factor" in scaling:
        names = ("short_factor", "long_factor", "original_max_position_embeddings")
        rope = {"rope_type": "longrope", "factor": 1.0} | {name: scaling[name] for name in names}
    theta = raw.get("rope_theta", 10000.0)
    if int(transformers.__version__.split(".")[0]) >= 5:
        return {"rope_parameters": rope | {"rope_theta": theta}}
    return {"rope_scaling": rope, "rope_theta": theta}


def _folded(raw: Raw, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    values = to_float32(draw(name, shape)) * _factor(raw, name)
    return torch.from_numpy(to_bfloat16(values)).view(torch.bfloat16)


def _factor(raw: Raw, name: str) -> float:
    """A tied head cannot take the logits' scale, and has the embedding's; the last norm makes up for both."""
    embed = raw.get("scale_emb", 1)
    logits = raw["hidden_size"] / raw.get("dim_model_base", raw["hidden_size"])
    if name == "model.embed_tokens.weight":
        return embed
    if name == "model.norm.weight":
        return 1 / (logits * (embed if is_tied(raw) else 1))
    if name.endswith(("o_proj.weight", "down_proj.weight")) and "scale_depth" in raw:
        return raw["scale_depth"] / raw["num_hidden_layers"] ** 0.5
    return 1
