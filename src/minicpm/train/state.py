"""Training state on disk: safetensors and JSON, written whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minicpm.models.decoder import Decoder

_PREFIX = "step-"


def save_state(
    folder: Path, step: int, decoder: Decoder, optimizers: list[torch.optim.Optimizer], info: Any
) -> Path:
    """Write `folder/step-N` with weights, optimizer moments and `info`; older states but one are removed."""
    target = folder / f"{_PREFIX}{step:07d}"
    part = folder / f".part-{os.getpid()}-{target.name}"
    part.mkdir(parents=True)
    save_file({name: p.detach() for name, p in decoder.named_parameters()}, part / "model.safetensors")
    save_file(_moments(optimizers), part / "optimizer.safetensors")
    (part / "state.json").write_text(json.dumps({"step": step, "info": info}, indent=1))
    for path in part.iterdir():
        _sync(path)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    _sync(folder)
    for old in _states(folder)[:-2]:
        shutil.rmtree(old)
    return target


def latest_state(folder: Path) -> Path | None:
    """The newest complete state, or None."""
    states = _states(folder)
    return states[-1] if states else None


def load_state(state: Path, decoder: Decoder, optimizers: list[torch.optim.Optimizer]) -> tuple[int, Any]:
    """Restore weights and moments in place; returns the step and the saved info."""
    decoder.load_state_dict(load_file(state / "model.safetensors"))
    moments = load_file(state / "optimizer.safetensors")
    for index, optimizer in enumerate(optimizers):
        _restore(optimizer, index, moments)
    saved = json.loads((state / "state.json").read_text())
    return int(saved["step"]), saved["info"]


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*")) if folder.is_dir() else []


def _moments(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    out = {}
    for index, optimizer in enumerate(optimizers):
        for key, values in optimizer.state_dict()["state"].items():
            out |= {f"{index}.{key}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return out


def _restore(optimizer: torch.optim.Optimizer, index: int, moments: dict[str, Tensor]) -> None:
    state = optimizer.state_dict()
    state["state"] = {}
    for name, value in moments.items():
        owner, key, field = name.split(".", 2)
        if int(owner) == index:
            state["state"].setdefault(int(key), {})[field] = value
    optimizer.load_state_dict(state)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
