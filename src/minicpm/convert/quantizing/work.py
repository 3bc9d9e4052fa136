"""What is kept between runs: a folder beside the target with every layer that was finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from minicpm.checkpoint.atomic import sync_folder, write_file
from minicpm.checkpoint.files import read_object, shown
from minicpm.checkpoint.header import read_header
from minicpm.checkpoint.layouts import own
from minicpm.checkpoint.lock import held
from minicpm.checkpoint.reading import read_tensor
from minicpm.checkpoint.sources import records_of
from minicpm.checkpoint.writing import spec_of, write_shard
from minicpm.convert.quantizing.parts import Source
from minicpm.convert.quantizing.recipe import Recipe
from minicpm.convert.quantizing.rounded import RoundedLayer
from minicpm.convert.texts import Sequences
from minicpm.errors import BadInput, MiniCPMError
from minicpm.ops.quant_tensor import QuantTensor, Scheme

_FORMAT = 1
_SETTINGS, _LOCK = "settings.json", "lock"


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a finished part: schemes of its packed modules and their errors."""

    schemes: dict[str, Scheme]
    errors: dict[str, float]


def fingerprint(source: Source, recipe: Recipe, calibration: Sequences | None) -> str:
    """The same for the same weights, config, recipe and calibration, and for no others."""
    checkpoint = source.checkpoint
    files = {name: asdict(r) for name, r in records_of(checkpoint.path, checkpoint.files).items()}
    facts = {
        "format": _FORMAT,
        "files": files,
        "config": checkpoint.raw_config,
        "recipe": asdict(recipe),
        "calibration": None if calibration is None else calibration.digest,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def work_folder(target: Path) -> Path:
    """Where the work on a target is kept."""
    return target.with_name(f".{target.name}.quantizing")


class Work:
    """Finished parts of one quantized model, by name; each is on the disk whole or not at all."""

    def __init__(self, folder: Path, *, anew: bool) -> None:
        self.folder = folder
        self.anew = anew
        """Whether parts of other settings were there, and were given up."""

    def note(self, part: str) -> Note | None:
        """What is known of a part, None unless it is finished."""
        if not (path := self.folder / f"{part}.json").exists():
            return None
        told = read_object(path)
        return Note({name: Scheme(**words) for name, words in told["schemes"].items()}, told["errors"])

    def weights(self, part: str) -> Path:
        """The file of a part's tensors."""
        return self.folder / f"{part}.safetensors"

    def keep(self, part: str, layer: RoundedLayer) -> None:
        """Write a part, its note last, so that a part with a note is whole."""
        tensors = [*layer.plain.items()]
        for name, packed in layer.packed.items():
            tensors += own.pack(name, packed)
        beside = self.folder / f"{part}.writing"
        write_shard(beside, [spec_of(name, tensor) for name, tensor in tensors], tensors)
        beside.replace(self.weights(part))
        sync_folder(self.folder)
        schemes = {name: asdict(packed.scheme) for name, packed in layer.packed.items()}
        self.keep_facts(part, {"schemes": schemes, "errors": layer.errors})

    def read(self, part: str, dtype: torch.dtype) -> RoundedLayer:
        """A finished part again, of packed matrices that stand for ones of this dtype."""
        note = self.note(part)
        assert note is not None, f"{part} is not finished"
        tensors = {name: read_tensor(info) for name, info in read_header(self.weights(part)).items()}
        packed = {name: _packed(tensors, name, scheme, dtype) for name, scheme in note.schemes.items()}
        return RoundedLayer(packed, note.errors, tensors)

    def keep_facts(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write numbers at once."""
        write_file(self.folder / f"{name}.json", json.dumps(facts).encode())

    def facts(self, name: str) -> dict[str, Any] | None:
        """Numbers that were kept, None where there are none."""
        path = self.folder / f"{name}.json"
        return read_object(path) if path.exists() else None

    def discard(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _packed(tensors: dict[str, torch.Tensor], name: str, scheme: Scheme, dtype: torch.dtype) -> QuantTensor:
    held_as = {part: tensors.pop(f"{name}.{part}") for part in own.PARTS if f"{name}.{part}" in tensors}
    return own.unpack(held_as, scheme=scheme, dtype=dtype)


@contextmanager
def opened(target: Path, settings: str) -> Iterator[Work]:
    """The work on a target with these settings, continued where there is any; other work there is given up.

    Raises BadInput while another process works on the same target.
    """
    folder = work_folder(target)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / _LOCK, wait=False) as ours:
        if not ours:
            raise BadInput(
                f"Another process is quantizing to {shown(str(target))}. Wait for it, or name another target."
            )
        anew = _prepare(folder, settings)
        yield Work(folder, anew=anew)


def _prepare(folder: Path, settings: str) -> bool:
    """Leave finished parts of these settings only; whether others were there."""
    known = _settings_of(folder)
    other = known is not None and known != settings
    for path in folder.iterdir():
        unfinished = path.suffix not in {".json", ".safetensors"} or path.name.startswith(".")
        if path.name != _LOCK and (known != settings or unfinished):
            path.unlink()
    write_file(folder / _SETTINGS, json.dumps({"settings": settings}).encode())
    return other


def _settings_of(folder: Path) -> str | None:
    path = folder / _SETTINGS
    try:
        return str(read_object(path).get("settings")) if path.exists() else None
    except MiniCPMError:  # it was cut short, or is of nobody
        return ""
