"""Opens a GGUF file as a checkpoint: published names, a config.json, a tokenizer; no tensor is read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.gguf.companions import companion_folder
from minicpm.checkpoint.gguf.config_in import Raw, raw_config
from minicpm.checkpoint.gguf.metadata import architecture_of
from minicpm.checkpoint.gguf.names import LONG_FACTORS, SHORT_FACTORS, paired_heads, published_names
from minicpm.checkpoint.gguf.reading import GgufFile, GgufTensor, read_gguf
from minicpm.checkpoint.gguf.sampling import generation_config
from minicpm.checkpoint.gguf.source import GgufSource
from minicpm.checkpoint.header import TensorInfo
from minicpm.config import ModelConfig
from minicpm.errors import WeightMismatch
from minicpm.models import registry

_PLAIN = ("F32", "F16", "BF16")
_IN_CONFIG = (LONG_FACTORS, SHORT_FACTORS)
_STACK_AXES = 3


def open_gguf(path: str | Path) -> Checkpoint:
    """The checkpoint in a GGUF file of the architectures `minicpm`, `minicpm3` and `llama`.

    Its `path` is a folder of the cache with the files that a published model has beside its weights. Raises
    the errors of `read_gguf`, `raw_config`, `registry.parse` and `companion_folder`, and WeightMismatch for
    tensors that no model of the family has.
    """
    file = read_gguf(Path(path).absolute())
    raw = raw_config(file)
    config = registry.parse(raw)
    plain: dict[str, TensorInfo] = {}
    packed: dict[str, GgufSource] = {}
    for name, tensor in _published(file, raw):
        paired = _paired(architecture_of(file), name, config, tensor)
        if tensor.type.name in _PLAIN:
            plain[name] = TensorInfo(
                tensor.shape, tensor.type.name, tensor.file, tensor.offset, tensor.nbytes, paired
            )
        else:
            packed[name] = GgufSource(tensor, paired)
    return Checkpoint(
        path=companion_folder(file, raw),
        raw_config=raw,
        generation=generation_config(file.metadata),
        tensors=plain,
        packed=packed,
    )


def _published(file: GgufFile, raw: Raw) -> Iterator[tuple[str, GgufTensor]]:
    """Every tensor by its published name, experts one by one."""
    experts = raw.get("num_experts", 0)
    unknown = []
    for tensor in file.tensors.values():
        names = published_names(tensor.name, experts)
        if tensor.name in _IN_CONFIG:
            continue
        if names is None or len(tensor.shape) > _STACK_AXES or _is_odd(tensor):
            unknown.append(tensor.name)
        elif len(tensor.shape) == _STACK_AXES and len(names) == tensor.shape[0]:
            yield from zip(names, _unstacked(tensor), strict=True)
        else:
            yield from ((name, tensor) for name in names)
    if unknown:
        raise WeightMismatch(
            f"{shown(str(file.path))} holds {len(unknown)} tensors that its architecture has no use for: "
            f"{listed(unknown)}. Loading it without them could ignore part of the model, so it is refused."
        )


def _is_odd(tensor: GgufTensor) -> bool:
    """A list of numbers in blocks, which no file holds and nothing here decodes."""
    return len(tensor.shape) == 1 and tensor.type.name not in _PLAIN


def _unstacked(tensor: GgufTensor) -> Iterator[GgufTensor]:
    """The matrices of a stack [E, O, I]."""
    count = tensor.shape[0]
    size = tensor.nbytes // count
    for place in range(count):
        yield replace(tensor, shape=tensor.shape[1:], offset=tensor.offset + place * size, nbytes=size)


def _paired(architecture: str, name: str, config: ModelConfig, tensor: GgufTensor) -> int | None:
    """Heads of paired rows, where the tensor has the rows that they need; others are refused later."""
    heads = paired_heads(architecture, name, config)
    return heads if heads and tensor.shape[0] % (2 * heads) == 0 else None
