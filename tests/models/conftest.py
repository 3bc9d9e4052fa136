"""Toy checkpoints of every published model, read without the checkpoint room."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minicpm.config import ModelConfig
from minicpm.models.build import build
from minicpm.models.decoder import Decoder
from minicpm.models.registry import parse
from minicpm.testing import tiny_checkpoint


@dataclass(frozen=True)
class Toy:
    """A raw config and its weights by published name; `decoder` builds the model they describe."""

    raw: dict
    state: dict[str, torch.Tensor]

    @property
    def config(self) -> ModelConfig:
        return parse(self.raw)

    def decoder(self, *, dtype=torch.float32, backend=None, config=None) -> Decoder:
        """Unprepared, so it trains, unless a backend is named."""
        decoder = build(config or self.config).to(dtype)
        decoder.load_state_dict({name: weight.to(dtype) for name, weight in self.state.items()}, strict=True)
        if backend is not None:
            decoder.prepare(backend)
        return decoder

    def ids(self, count: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(self.raw["vocab_size"], (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """toy(family, **changes of its config) -> Toy."""
    made: dict[str, Toy] = {}

    def make(family: str, **changes) -> Toy:
        key = json.dumps([family, changes])
        if key not in made:
            made[key] = _read(tiny_checkpoint(family, tmp_path_factory.mktemp("toy"), **changes))
        return made[key]

    return make


def _read(folder: Path) -> Toy:
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    state: dict[str, torch.Tensor] = {}
    for shard in sorted(set(index["weight_map"].values())):
        state |= load_file(folder / shard)
    return Toy(raw, state)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Toy sizes are slower on more threads, and one thread keeps sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
