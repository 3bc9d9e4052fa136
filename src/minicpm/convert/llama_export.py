"""Writes a muP decoder as a plain Llama, its three scales multiplied into the weights.

    embed_tokens' = embed_tokens * embed_scale      o_proj' = o_proj * residual_scale
    lm_head' = lm_head / logit_scale                down_proj' = down_proj * residual_scale

Where the head is tied, lm_head is the embedding as it was; the two differ afterwards, so nothing is tied.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.filling import is_finite
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.layouts.settings import KEYS
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.reading import NAMES, TORCH_DTYPES
from minicpm.checkpoint.writing import TensorSpec
from minicpm.config import GQA, Dense, InfLLM, LongRope, ModelConfig, NextToken, SiLU, dtype_name
from minicpm.convert.hf_folder import Folder, write_folder
from minicpm.convert.needed import Needed, needed_of
from minicpm.convert.outcome import Outcome
from minicpm.errors import BadInput, NotFinite
from minicpm.ops.quant_tensor import plain

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_BRANCHES = (".self_attn.o_proj.weight", ".mlp.down_proj.weight")
_LLAMA = "LlamaForCausalLM"
# Keys that the weights now carry, that name code, or that Llama has no meaning for.
_DROPPED = frozenset(
    {
        "_name_or_path",
        "auto_map",
        "scale_emb",
        "scale_depth",
        "dim_model_base",
        "mup_denominator",
        "sparse_config",
        "num_experts",
        "num_experts_per_tok",
        "hidden_act_param",
        *KEYS,
    }
)


def to_llama(
    source: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write the folder `target` in llama format, with SHA256SUMS, one tensor at a time.

    Products are made in float32 and cast to the dtype that a weight is stored in; matrices in codes are
    decoded to that of config.json. With `dry_run` nothing is written. Raises BadInput for a model that is no
    Llama in other clothes or is one already, WeightMismatch, NotFinite where a product overflows, DiskFull.
    """
    needed = needed_of(source)
    _require_foldable(source, needed.config)
    specs = [_spec(needed, name) for name in _names(needed)]
    folder = Folder(_config(needed.config), specs, _folded(needed, specs), _notes(needed.config))
    return write_folder(folder, source, target, overwrite=overwrite, progress=progress, dry_run=dry_run)


def _require_foldable(source: Checkpoint, config: ModelConfig) -> None:
    if _LLAMA in (source.raw_config.get("architectures") or ()):
        raise BadInput(
            f"{shown(str(source.path))} is in llama format already: its scales are in its weights, and "
            "multiplying them in again would break it. Copy the folder as it is."
        )
    layers = [(layer.mixer, layer.ffn) for layer in config.layers]
    plain_layers = all(
        isinstance(mixer, GQA | InfLLM) and isinstance(ffn, Dense) and ffn.act == SiLU()
        for mixer, ffn in layers
    )
    if not plain_layers or config.vision is not None or not isinstance(config.head, NextToken):
        raise BadInput(
            f"{shown(str(source.path))} ({config.family}) is no dense decoder with ordinary attention and "
            "SiLU, so no Llama computes what it does. Models of MiniCPM 1B, 2B, 4, 4.1 and BitCPM4 can be "
            "written so; for llama.cpp use --to gguf."
        )


def _names(needed: Needed) -> list[str]:
    return [*needed.shapes, *([_HEAD] if needed.config.tied else [])]


def _stored(needed: Needed, name: str) -> str:
    """The tensor that it is made of."""
    return _EMBEDDING if name == _HEAD and needed.config.tied else name


def _spec(needed: Needed, name: str) -> TensorSpec:
    stored = _stored(needed, name)
    info = needed.checkpoint.tensors.get(stored)
    dtype = NAMES[getattr(torch, dtype_name(needed.config.dtype))] if info is None else info.dtype
    return TensorSpec(name, dtype, needed.shapes[stored])


def _folded(needed: Needed, specs: list[TensorSpec]) -> Iterator[tuple[str, Tensor]]:
    for spec in specs:
        factor = _factor(spec.name, needed.config)
        weight = plain(needed.read(_stored(needed, spec.name)))
        dtype = TORCH_DTYPES[spec.dtype]
        made = weight.to(dtype) if factor == 1.0 else (weight.float() * factor).to(dtype)
        if not is_finite(made):
            raise NotFinite(
                f"{spec.name} times {factor:g} overflows {spec.dtype}, or held NaN or infinity before. "
                "Nothing was written; convert a bfloat16 or float32 version of the model."
            )
        yield spec.name, made


def _factor(name: str, config: ModelConfig) -> float:
    if name == _EMBEDDING:
        return config.embed_scale
    if name == _HEAD:
        return 1 / config.logit_scale
    return config.residual_scale if name.endswith(_BRANCHES) else 1.0


def _config(config: ModelConfig) -> dict[str, Any]:
    kept = {key: value for key, value in config.raw.items() if key not in _DROPPED}
    mixer = config.layers[0].mixer
    told = {
        "architectures": [_LLAMA],
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "num_key_value_heads": mixer.kv_heads,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
    }
    if isinstance(config.rope, LongRope):
        told["rope_scaling"] = _long_rope(config.rope)
    return kept | told


def _long_rope(rope: LongRope) -> dict[str, Any]:
    """With the scale of attention said, which readers otherwise derive in different ways."""
    return {
        "rope_type": "longrope",
        "short_factor": list(rope.short),
        "long_factor": list(rope.long),
        "original_max_position_embeddings": rope.original,
        "factor": rope.length / rope.original,
        "attention_factor": rope.attention_scale,
    }


def _notes(config: ModelConfig) -> tuple[str, ...]:
    if config.sparse is None:
        return ()
    return (
        "A Llama attends to all tokens: the chosen blocks that this model attends to in long texts are gone.",
    )
