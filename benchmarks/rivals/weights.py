"""Seeded random weights of a published shape, the same numbers in every worker; needs numpy only."""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Raw = Mapping[str, Any]
Shape = tuple[int, ...]

SEED = 0


def shapes(raw: Raw) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every weight, as published checkpoints have them."""
    hidden = raw["hidden_size"]
    yield "model.embed_tokens.weight", (raw["vocab_size"], hidden)
    for layer in range(raw["num_hidden_layers"]):
        for name, shape in _layer(raw).items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    if not is_tied(raw):
        yield "lm_head.weight", (raw["vocab_size"], hidden)


def is_tied(raw: Raw) -> bool:
    """True when the embedding is the head too, as it is unless said."""
    return bool(raw.get("tie_word_embeddings", True))


def is_latent(raw: Raw) -> bool:
    """True for a model with latent attention."""
    return "kv_lora_rank" in raw


def head_dim(raw: Raw) -> int:
    """Width of a head of grouped-query attention."""
    return raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]


def key(raw: Raw) -> str:
    """A name for files made of these weights."""
    text = json.dumps(dict(raw), sort_keys=True)
    return f"{raw['hidden_size']}x{raw['num_hidden_layers']}-{zlib.crc32(text.encode(), SEED):08x}"


def draw(name: str, shape: Shape) -> np.ndarray:
    """Weights in bfloat16, held as uint16: norms near 1, others uniform with variance 1 / inputs."""
    spread = 0.05 if len(shape) == 1 else shape[-1] ** -0.5
    count = int(np.prod(shape))
    # Raw bits of a generator are the same in every version of numpy; its distributions are not.
    raw = np.random.PCG64([SEED, zlib.crc32(name.encode())]).random_raw(-(-count // 4))
    values = raw.view(np.uint16)[:count].astype(np.float32)
    values -= 32767.5
    values *= np.float32(spread * 12**0.5 / 65536)
    if len(shape) == 1:
        values += 1
    return to_bfloat16(values).reshape(shape)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even, held as uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_float32(values: np.ndarray) -> np.ndarray:
    """The inverse of `to_bfloat16`, exact."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def _layer(raw: Raw) -> dict[str, Shape]:
    hidden, inner = raw["hidden_size"], raw["intermediate_size"]
    attention = _latent(raw) if is_latent(raw) else _grouped(raw)
    return {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        **{f"self_attn.{name}": shape for name, shape in attention.items()},
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def _grouped(raw: Raw) -> dict[str, Shape]:
    hidden, width = raw["hidden_size"], head_dim(raw)
    q, kv = raw["num_attention_heads"] * width, raw["num_key_value_heads"] * width
    return {"q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q)}


def _latent(raw: Raw) -> dict[str, Shape]:
    hidden, heads, value = raw["hidden_size"], raw["num_attention_heads"], head_dim(raw)
    q_rank, kv_rank = raw["q_lora_rank"], raw["kv_lora_rank"]
    nope, rope = raw["qk_nope_head_dim"], raw["qk_rope_head_dim"]
    return {
        "q_a_proj": (q_rank, hidden),
        "q_a_layernorm": (q_rank,),
        "q_b_proj": (heads * (nope + rope), q_rank),
        "kv_a_proj_with_mqa": (kv_rank + rope, hidden),
        "kv_a_layernorm": (kv_rank,),
        "kv_b_proj": (heads * (nope + value), kv_rank),
        "o_proj": (hidden, heads * value),
    }
