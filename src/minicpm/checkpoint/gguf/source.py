"""A matrix of a GGUF file that is held in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from minicpm.checkpoint.gguf.reading import GgufTensor

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from minicpm.ops.quant_tensor import Weight

_CHUNK_WEIGHTS = 1 << 24
"""Decoded at a time, in float32."""


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A `PackedSource`: the tensor [O, I] as it lies, and in how many heads its rows are paired, if so."""

    tensor: GgufTensor
    paired: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        rows, columns = self.tensor.shape
        return rows, columns

    @property
    def format(self) -> str:
        """llama.cpp's name of the type, as "Q4_K"."""
        return self.tensor.type.name

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.tensor.nbytes

    @property
    def file(self) -> Path:
        """The one file there is."""
        return self.tensor.file

    @property
    def offset(self) -> int:
        """Its first byte there."""
        return self.tensor.offset

    def held_bytes(self, itemsize: int) -> int:
        """Bytes in memory: one block's, held as all of them will be, times their number."""
        import torch

        from minicpm.checkpoint.gguf.decoding import codes_of

        block = torch.zeros(1, self.tensor.type.nbytes, dtype=torch.uint8)
        codes = codes_of(self.tensor.type, block, torch.float32)
        if codes is None:
            return self.shape[0] * self.shape[1] * itemsize
        return codes.nbytes * (self.nbytes // self.tensor.type.nbytes)

    def read(self, dtype: torch.dtype) -> Weight:
        """The matrix of this dtype in codes where a grid of ours holds it exactly, else decoded.

        Its rows are in the published order. Raises TruncatedFile when the file has changed.
        """
        from minicpm.checkpoint.gguf.decoding import codes_of, read_rows
        from minicpm.checkpoint.row_order import from_pairs

        data = read_rows(self.tensor)
        codes = codes_of(self.tensor.type, data, dtype)
        if codes is not None:
            return codes if self.paired is None else from_pairs(codes, self.paired)
        weight = self._decoded(data, dtype)
        return weight if self.paired is None else from_pairs(weight, self.paired)

    def _decoded(self, data: Tensor, dtype: torch.dtype) -> Tensor:
        import torch

        from minicpm.checkpoint.gguf.decoding import decode_blocks

        out = torch.empty(self.shape, dtype=dtype)
        rows = max(_CHUNK_WEIGHTS // self.shape[1], 1)
        for start in range(0, len(data), rows):
            out[start : start + rows] = decode_blocks(self.tensor.type, data[start : start + rows])
        return out
