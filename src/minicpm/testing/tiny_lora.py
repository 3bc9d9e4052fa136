"""Toy LoRA folders in the layout of PEFT, with random weights that change what a model says."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from minicpm.layers.projection import Projection, projections
from minicpm.models.build import build
from minicpm.models.registry import parse

_PREFIX = "base_model.model."


def tiny_adapter(
    path: Path | str,
    model: Path | str,
    targets: Sequence[str] = ("q_proj", "v_proj", "down_proj"),
    *,
    rank: int = 4,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Write an adapter for the checkpoint in the folder `model` to the folder `path` and return it.

    `targets` are module names; `settings` replace keys of adapter_config.json, where `use_dora` brings
    magnitudes. Every projection gets `rank`, whatever rank_pattern says.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    raw = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        built = build(parse(raw))
    every = projections(built, built.model.layers)
    chosen = {name: p for name, p in every.items() if name.rpartition(".")[2] in targets}
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(targets),
        "bias": "none",
        "base_model_name_or_path": str(model),
    }
    text = json.dumps(config | settings, indent=2)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    dora = bool(settings.get("use_dora"))
    tensors = dict(t for name, p in chosen.items() for t in _tensors(name, p, rank, dora, generator))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _tensors(
    name: str, projection: Projection, rank: int, dora: bool, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    inputs, outputs = projection.in_features, projection.out_features
    # As large as a row of the weights, so that its effect is far above rounding.
    yield f"{_PREFIX}{name}.lora_A.weight", torch.randn(rank, inputs, generator=generator) / inputs**0.5
    yield f"{_PREFIX}{name}.lora_B.weight", torch.randn(outputs, rank, generator=generator) / rank**0.5 / 4
    if dora:
        yield f"{_PREFIX}{name}.lora_magnitude_vector", 1 + torch.rand(outputs, generator=generator)
