"""Complete toy checkpoints of every published model: real layout and names, random weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from minicpm.config import Head, NextToken
from minicpm.models.build import build
from minicpm.models.published import Published, published
from minicpm.models.registry import parse
from minicpm.quant.packing import projections
from minicpm.quant.ternary import Group, ternarise
from minicpm.testing.tiny_tokenizer import TinyTokenizer, tiny_tokenizer

_SHARD_TENSORS = 9
# Positions learned for 3 x 3 patches, and images of 5 x 5.
_TOY_TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "patch_size": 4,
    "image_size": 12,
}


def families(head: type[Head] = NextToken) -> list[str]:
    """Names `tiny_checkpoint` accepts, one per published model that makes this of its hidden states.

    Models that write text predict the `NextToken`; `Embedding` and `Relevance` name the others.
    """
    return [row.name.lower() for row in published() if isinstance(parse(row.raw).head, head)]


def tiny_checkpoint(
    family: str, path: Path | str, seed: int = 0, *, dtype: str = "float32", group: Group = 32, **changes: Any
) -> Path:
    """Write a toy checkpoint of `family` to the folder `path` and return it.

    config.json keeps every key of the published config but the sizes; weights are normal with
    variance 1 / fan-in, in sharded safetensors under the published names. Models that are published
    ternary get ternary projections, in groups of `group` weights or of a whole "row". `changes`
    replaces config keys.
    """
    row = _row(family)
    tokenizer = tiny_tokenizer(row.family)
    raw = tiny_config(family, tokenizer) | {"torch_dtype": dtype} | changes
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", raw)
    _write_json(folder / "generation_config.json", _generation(raw))
    tokenizer.write(folder)
    ternary = group if row.ternary else None
    _write_weights(folder, _random_weights(raw, seed, getattr(torch, dtype), ternary))
    return folder


def tiny_config(family: str, tokenizer: TinyTokenizer | None = None) -> dict[str, Any]:
    """The toy config of `family`; its vocabulary fits `tokenizer`."""
    row = _row(family)
    tokenizer = tokenizer or tiny_tokenizer(row.family)
    raw = (
        dict(row.raw) | _toy_sizes(row) | {"bos_token_id": tokenizer.bos, "eos_token_id": list(tokenizer.eos)}
    )
    raw["vocab_size"] = tokenizer.size
    if raw.get("pad_token_id") is not None:
        raw["pad_token_id"] = tokenizer.eos[0]
    if raw.get("rope_scaling"):
        raw["rope_scaling"] = _toy_rope(dict(raw["rope_scaling"]))
    return raw


def _row(family: str) -> Published:
    rows = {row.name.lower(): row for row in published()}
    if family.lower() not in rows:
        raise ValueError(f"No toy checkpoint is known for {family!r}; one of: {', '.join(rows)}.")
    return rows[family.lower()]


def _toy_sizes(row: Published) -> dict[str, Any]:
    real = row.raw
    grouped = real["num_key_value_heads"] < real["num_attention_heads"]
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if grouped else 4,
    }
    if "dim_model_base" in real:
        sizes["dim_model_base"] = 16
    if "kv_lora_rank" in real:
        sizes |= {"q_lora_rank": 24, "kv_lora_rank": 20, "qk_nope_head_dim": 12, "qk_rope_head_dim": 16}
    if "head_dim" in real:
        sizes["head_dim"] = 32
    if queries := {"query_num", "num_query"} & real.keys():
        sizes |= dict.fromkeys(queries, 4) | {"image_size": 20, "vision_config": _TOY_TOWER}
    if "mixer_types" in real:
        words = real["mixer_types"]
        sizes |= {"num_hidden_layers": 4, "mixer_types": [words[0], words[1], words[1], words[0]]}
        sizes |= {"lightning_nh": 4, "lightning_nkv": 4, "lightning_head_dim": 16}
    return sizes


def _toy_rope(scaling: dict[str, Any]) -> dict[str, Any]:
    for key in ("short_factor", "long_factor"):
        if key in scaling:
            stride = len(scaling[key]) // 8  # 8 frequencies for heads 16 wide
            scaling[key] = scaling[key][::stride][:8]
    return scaling


def _generation(raw: dict[str, Any]) -> dict[str, Any]:
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: raw[key] for key in keys if raw.get(key) is not None} | {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.7,
    }


def _write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    names = sorted(tensors)
    groups = [names[i : i + _SHARD_TENSORS] for i in range(0, len(names), _SHARD_TENSORS)]
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        shard = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: tensors[name] for name in group}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, shard)
    total = sum(t.nbytes for t in tensors.values())
    _write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _random_weights(
    raw: dict[str, Any], seed: int, dtype: torch.dtype, ternary: Group | None
) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = build(parse(raw))
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _random(weight, generator).to(dtype) for name, weight in model.named_parameters()}
    if ternary is not None:
        weights = [f"{name}.weight" for name in projections(model)]
        tensors |= {name: ternarise(tensors[name], ternary) for name in weights}
    return tensors


def _random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Of a weight's shape: around one for norms, of variance 1 / fan-in for matrices."""
    noise = torch.randn(weight.shape, generator=generator)
    return 1 + 0.1 * noise if weight.ndim == 1 else noise / weight.shape[-1] ** 0.5


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
