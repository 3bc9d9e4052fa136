"""A matrix that a checkpoint holds in codes, whatever the layout of its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from minicpm.ops.quant_tensor import Weight


class PackedSource(Protocol):
    """Where a matrix [O, I] lies, and how it is held there; nothing of it is in memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        ...

    @property
    def format(self) -> str:
        """What a user calls it: "gptq 4 bits, groups of 128", "Q4_K"."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes in the files, scales and all else included."""
        ...

    @property
    def file(self) -> Path:
        """The file it is in, or the first of them."""
        ...

    @property
    def offset(self) -> int:
        """Its first byte there, so that files can be read from front to back."""
        ...

    def read(self, dtype: torch.dtype) -> Weight:
        """The matrix of this dtype: packed where a `QuantTensor` holds it exactly, else decoded.

        Raises MalformedFile or TruncatedFile for what is not sound.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A source that knows what its matrix takes in memory; of another its bytes in the files are assumed."""

    def held_bytes(self, itemsize: int) -> int:
        """Bytes once read for a model of a dtype of so many bytes."""
        ...
