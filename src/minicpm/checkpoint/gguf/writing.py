"""Writes GGUF files of version 3, streaming: one tensor at a time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

from torch import Tensor

from minicpm.checkpoint.gguf.reading import MAGIC
from minicpm.checkpoint.gguf.types import BlockType
from minicpm.checkpoint.gguf.values import Typed, encoded_text
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.reading import as_buffer

ALIGNMENT = 32
"""Every tensor starts at a multiple of this many bytes: the format's default."""
_VERSION = 3
# llama.cpp keeps a name and the zero after it in 64 bytes.
_NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What a header says of a tensor: name, shape as [outputs, inputs], type."""

    name: str
    shape: tuple[int, ...]
    type: BlockType

    def __post_init__(self) -> None:
        assert 0 < len(self.name.encode()) <= _NAME_BYTES, f"{self.name!r} is no name for a tensor"
        assert len(self.shape) in range(1, 5), f"{self.name} has {len(self.shape)} dimensions"
        assert min(self.shape) > 0, f"{self.name} has the empty shape {self.shape}"
        assert self.shape[-1] % self.type.block == 0, f"{self.name} {self.shape} is not held as {self.type}"

    @property
    def nbytes(self) -> int:
        """Bytes of its content, padding left out."""
        return prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


def size_of(metadata: Mapping[str, Typed], tensors: Sequence[TensorPlan]) -> int:
    """Bytes of the file that `write_gguf` makes of these."""
    return len(_header(metadata, tensors)) + sum(_padded(plan.nbytes) for plan in tensors)


def write_gguf(
    file: BinaryIO,
    metadata: Mapping[str, Typed],
    tensors: Sequence[TensorPlan],
    data: Iterable[Tensor | bytes],
    progress: Progress | None = None,
) -> None:
    """Write a file of these; `data` has the content of each tensor, in the order of `tensors`.

    A tensor may be of any dtype; its bytes are written as they lie, row after row. Nothing is synced. Raises
    BadInput, before anything is written, for a metadata value that its kind does not hold.
    """
    total, done = sum(plan.nbytes for plan in tensors), 0
    file.write(_header(metadata, tensors))
    for plan, content in zip(tensors, data, strict=True):
        buffer = memoryview(content) if isinstance(content, bytes) else _bytes_of(content)
        assert len(buffer) == plan.nbytes, f"{plan} comes in {len(buffer)} bytes, {plan.nbytes} are announced"
        file.write(buffer)
        file.write(bytes(-plan.nbytes % ALIGNMENT))
        done += plan.nbytes
        if progress is not None:
            progress(done, total, plan.name)


def _bytes_of(tensor: Tensor) -> memoryview:
    return as_buffer(tensor.detach().cpu().contiguous())


def _header(metadata: Mapping[str, Typed], tensors: Sequence[TensorPlan]) -> bytes:
    """Everything up to the first byte of the first tensor."""
    assert "general.alignment" not in metadata, f"tensors are aligned to {ALIGNMENT} bytes"
    assert len({plan.name for plan in tensors}) == len(tensors), "a name is given to two tensors"
    parts = [MAGIC, _u32(_VERSION), _u64(len(tensors)), _u64(len(metadata))]
    parts += [value.encoded(key) for key, value in metadata.items()]
    place = 0
    for plan in tensors:
        parts.append(_description(plan, place))
        place += _padded(plan.nbytes)
    header = b"".join(parts)
    return header + bytes(-len(header) % ALIGNMENT)


def _description(plan: TensorPlan, place: int) -> bytes:
    sizes = b"".join(_u64(size) for size in reversed(plan.shape))
    rank, number = _u32(len(plan.shape)), _u32(plan.type.number)
    return encoded_text(plan.name) + rank + sizes + number + _u64(place)


def _padded(nbytes: int) -> int:
    return nbytes + -nbytes % ALIGNMENT


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "little")
