"""Writes tensors as safetensors files, streaming: no more than one tensor is copied at a time."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch import Tensor

from minicpm.checkpoint.header import ITEM_BYTES
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.reading import NAMES, as_buffer
from minicpm.checkpoint.shards import INDEX, SINGLE


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a header says of a tensor: name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its content."""
        count = ITEM_BYTES[self.dtype]
        for size in self.shape:
            count *= size
        return count


def spec_of(name: str, tensor: Tensor) -> TensorSpec:
    """The header entry for a tensor; KeyError for a dtype that safetensors has no name for."""
    return TensorSpec(name, NAMES[tensor.dtype], tuple(tensor.shape))


def write_shards(
    folder: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int,
    progress: Progress | None = None,
) -> None:
    """Write `tensors`, which come in the order of `specs`, as one file, or as shards with an index."""
    groups = _named(_groups(specs, max_shard_bytes))
    stream = iter(tensors)
    total, done = sum(spec.nbytes for spec in specs), 0
    for name, group in groups.items():
        write_shard(folder / name, group, islice(stream, len(group)))
        done += sum(spec.nbytes for spec in group)
        if progress is not None:
            progress(done, total, name)
    if len(groups) > 1:
        placed = {spec.name: name for name, group in groups.items() for spec in group}
        write_index(folder, placed, total)


def shard_bytes(specs: Sequence[TensorSpec], max_shard_bytes: int) -> dict[str, int]:
    """The files that `write_shards` would write, and their bytes, but for an index."""
    groups = _named(_groups(specs, max_shard_bytes))
    return {name: len(_header(group)) + sum(spec.nbytes for spec in group) for name, group in groups.items()}


def _named(groups: list[list[TensorSpec]]) -> dict[str, list[TensorSpec]]:
    count = len(groups)
    if count == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05}-of-{count:05}.safetensors": group for i, group in enumerate(groups, start=1)}


def _groups(specs: Sequence[TensorSpec], max_bytes: int) -> list[list[TensorSpec]]:
    """Consecutive runs of at most `max_bytes`; a larger tensor gets a run of its own."""
    groups: list[list[TensorSpec]] = [[]]
    room = max_bytes
    for spec in specs:
        if groups[-1] and spec.nbytes > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(spec)
        room -= spec.nbytes
    return groups


def write_shard(path: Path, specs: Sequence[TensorSpec], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """One safetensors file, forced to the disk."""
    with path.open("wb") as file:
        file.write(_header(specs))
        for spec, (name, tensor) in zip(specs, tensors, strict=True):
            assert spec == spec_of(name, tensor), f"{name} is not what the header announces: {spec}"
            file.write(as_buffer(tensor.detach().cpu().contiguous()))
        file.flush()
        os.fsync(file.fileno())


def _header(specs: Sequence[TensorSpec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [end, end + spec.nbytes],
        }
        end += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Padding keeps the first tensor on an 8-byte boundary, as the format asks.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_index(folder: Path, placed: dict[str, str], total_bytes: int) -> None:
    """The index of a sharded folder."""
    content = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(placed.items()))}
    write_json(folder / INDEX, content)


def write_json(path: Path, content: object) -> None:
    """A JSON file as published ones look, forced to the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
