"""Opens a local model folder as a lazy, read-only checkpoint; only small files and headers are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.checkpoint.files import (
    file_names,
    inside,
    listed,
    read_object,
    readable,
    refuse_pointers,
    require_folder,
    shown,
)
from minicpm.checkpoint.gguf.finding import gguf_in
from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.layouts.recognition import recognise
from minicpm.checkpoint.layouts.settings import KEYS
from minicpm.checkpoint.packed_source import PackedSource
from minicpm.checkpoint.shards import read_tensors
from minicpm.errors import NotACheckpoint

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
GENERATION = "generation_config.json"
_BESIDE = "quantize_config.json"
# Files that travel with the weights: they are copied by `save` and `convert`.
COMPANIONS = (
    GENERATION,
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose small files were read and whose weight headers were checked.

    `tensors` maps published names to where they lie, and `packed` the names of matrices that are held in
    codes ("model.layers.0.mlp.up_proj.weight"); nothing of them is in memory. `auto_map` and Python files of
    the folder are data here and are never imported.
    """

    path: Path
    raw_config: dict[str, Any] = field(repr=False)
    generation: dict[str, Any] = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    packed: Mapping[str, PackedSource] = field(default_factory=dict, repr=False)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(one.nbytes for one in self.stored.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, sorted by name."""
        return tuple(sorted({one.file for one in self.stored.values()}))

    @property
    def stored(self) -> Mapping[str, TensorInfo | PackedSource]:
        """Every weight by its name, plain or in codes."""
        return {**self.tensors, **self.packed}

    def read(self, name: str) -> "Tensor":
        """A new CPU tensor with the stored dtype and shape; raises KeyError for a name not in `tensors`."""
        from minicpm.checkpoint.reading import read_tensor

        return read_tensor(self.tensors[name])

    def companions(self) -> list[Path]:
        """The tokenizer, template, generation and licence files that the folder has."""
        return [path for name in COMPANIONS if (path := inside(self.path, name)) is not None]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a local model folder, or a GGUF file, without reading a tensor.

    Raises NotACheckpoint, BadConfig, LfsPointer, TruncatedFile, MalformedFile or UnsafeFormat, and
    CheckpointError for a file that cannot be read or leads out of the folder.
    """
    with readable(Path(path)):
        file = gguf_in(Path(path))
        if file is not None:
            from minicpm.checkpoint.gguf.opening import open_gguf

            return open_gguf(file)
        return _open(require_folder(Path(path)))


def _open(folder: Path) -> Checkpoint:
    config = _config_file(folder)
    refuse_pointers(_present(folder, (CONFIG, *COMPANIONS, *_weight_names(folder))))
    raw = read_object(config)
    generation = inside(folder, GENERATION)
    found = recognise(read_tensors(folder), _with_quantization(folder, raw), folder)
    return Checkpoint(
        path=folder,
        raw_config=raw,
        generation=read_object(generation) if generation is not None else {},
        tensors=found.tensors,
        packed=found.packed,
    )


def _with_quantization(folder: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The config and, where it is silent, what older GPTQ repositories say in a file beside."""
    beside = inside(folder, _BESIDE)
    if beside is None or any(raw.get(key) is not None for key in KEYS):
        return raw
    return {**raw, KEYS[0]: {"quant_method": "gptq", **read_object(beside)}}


def _config_file(folder: Path) -> Path:
    config = inside(folder, CONFIG)
    if config is not None:
        return config
    names = file_names(folder)
    found = f"Found: {listed(names)}" if names else "The folder is empty"
    raise NotACheckpoint(
        f"{shown(str(folder))} has no {CONFIG}, so it is not a model folder. {found}. "
        "Give the folder that holds config.json and the safetensors files."
    )


def _weight_names(folder: Path) -> list[str]:
    return [name for name in file_names(folder) if name.endswith((".safetensors", ".safetensors.index.json"))]


def _present(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [path for name in names if (path := inside(folder, name)) is not None]
