"""Toy drafts of a toy decoder, under the names of each published packaging, with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from minicpm.config import ModelConfig

EAGLE2_FRSPEC, EAGLE2_VLLM, EAGLE3 = "eagle2-frspec", "eagle2-vllm", "eagle3"
DRAFTS = (EAGLE2_FRSPEC, EAGLE2_VLLM, EAGLE3)
_INTERMEDIATE = 80


def tiny_draft(
    kind: str, path: Path | str, target: ModelConfig, seed: int = 0, *, guesses: int = 40, **changes: Any
) -> Path:
    """Write a draft for a decoder of the config `target` to the folder `path` and return it.

    The two packagings of EAGLE-2 hold the same weights for the same seed; an EAGLE-3 draft guesses from
    `guesses` tokens, and sees the layers its config names, those that a toy of few layers has. `changes`
    replace config keys.
    """
    if kind not in DRAFTS:
        raise ValueError(f"No toy draft is known for {kind!r}; one of: {', '.join(DRAFTS)}.")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    raw = _config(kind, target, guesses) | changes
    (folder / "config.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    shapes = _eagle3_shapes(raw) if kind == EAGLE3 else _eagle2_shapes(raw)
    tensors = {_named(kind, name): _random(shape, generator) for name, shape in shapes.items()}
    save_file(tensors | _companions(kind, raw, generator), folder / "model.safetensors")
    return folder


def _config(kind: str, target: ModelConfig, guesses: int) -> dict[str, Any]:
    heads = target.hidden // target.rope.dim
    raw: dict[str, Any] = {
        "hidden_size": target.hidden,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": max(heads // 2, 1),
        "head_dim": target.rope.dim,
        "vocab_size": target.vocab,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": target.context,
        "torch_dtype": "float32",
    }
    if kind == EAGLE3:
        layers = len(target.layers)
        taps = {
            "eagle_aux_hidden_state_layer_ids": [1, layers // 2, layers - 1],
            "use_aux_hidden_state": True,
        }
        names = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
        return raw | names | {"draft_vocab_size": guesses, "eagle_config": taps}
    names = {"architectures": ["EagleMiniCPMForCausalLM"], "model_type": "minicpm"}
    return raw | names | {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "mup_denominator": 32}


def _block_shapes(raw: dict[str, Any], inputs: int) -> dict[str, tuple[int, ...]]:
    hidden, width = raw["hidden_size"], raw["head_dim"]
    queries, keys = raw["num_attention_heads"] * width, raw["num_key_value_heads"] * width
    return {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, inputs),
        "self_attn.k_proj.weight": (keys, inputs),
        "self_attn.v_proj.weight": (keys, inputs),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (raw["intermediate_size"], hidden),
        "mlp.up_proj.weight": (raw["intermediate_size"], hidden),
        "mlp.down_proj.weight": (hidden, raw["intermediate_size"]),
    }


def _eagle2_shapes(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = raw["hidden_size"]
    block = {f"layers.0.{name}": shape for name, shape in _block_shapes(raw, hidden).items()}
    return {
        "fc.weight": (hidden, 2 * hidden),
        "input_norm1.weight": (hidden,),
        "input_norm2.weight": (hidden,),
    } | block


def _eagle3_shapes(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, taps = raw["hidden_size"], len(raw["eagle_config"]["eagle_aux_hidden_state_layer_ids"])
    block = {f"midlayer.{name}": shape for name, shape in _block_shapes(raw, 2 * hidden).items()}
    return block | {
        "midlayer.hidden_norm.weight": (hidden,),
        "fc.weight": (hidden, taps * hidden),
        "norm.weight": (hidden,),
        "lm_head.weight": (raw["draft_vocab_size"], hidden),
    }


def _companions(kind: str, raw: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of the packaging that repeat the target's, or that say which tokens are guessed."""
    hidden, vocab = raw["hidden_size"], raw["vocab_size"]
    embedding = _random((vocab, hidden), generator)
    if kind == EAGLE2_FRSPEC:
        return {"embed_tokens.weight": embedding}
    if kind == EAGLE2_VLLM:
        head, norm = _random((vocab, hidden), generator), _random((hidden,), generator)
        return {"model.embed_tokens.weight": embedding, "model.norm.weight": norm, "lm_head.weight": head}
    ids = torch.randperm(vocab, generator=generator)[: raw["draft_vocab_size"]].sort().values
    guessed = torch.zeros(vocab, dtype=torch.bool)
    guessed[ids] = True
    return {"d2t": ids - torch.arange(len(ids)), "t2d": guessed, "embed_tokens.weight": embedding}


def _named(kind: str, name: str) -> str:
    return "model." + name.replace("layers.", "eagle_layers.") if kind == EAGLE2_VLLM else name


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return 1 + 0.1 * torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator) / shape[-1] ** 0.5
