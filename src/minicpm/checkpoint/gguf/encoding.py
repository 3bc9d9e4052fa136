"""Numbers or a packed matrix in, blocks of weights out."""

from collections.abc import Iterator

import torch
from torch import Tensor

from minicpm.checkpoint.gguf.decoding import PLAIN
from minicpm.checkpoint.gguf.layouts import LAYOUTS
from minicpm.checkpoint.gguf.nearest import round_blocks
from minicpm.checkpoint.gguf.repacking import repack
from minicpm.checkpoint.gguf.searching import search_blocks
from minicpm.checkpoint.gguf.types import BlockType
from minicpm.errors import NotFinite
from minicpm.ops.quant_tensor import QuantTensor

# Weights encoded at a time, so that what is computed with them stays in a processor's cache.
_SLICE = 1 << 18


@torch.no_grad()
def encode_blocks(type: BlockType, weight: Tensor) -> Tensor:
    """A float matrix [rows, columns] as uint8 [rows, row_bytes]; the block must divide the columns.

    Types with one scale per block give the bytes of ggml's reference. For K types scales are searched for the
    least squared error. Beside the result it takes a few slices of memory.

    Raises NotFinite for NaN, infinity, and magnitudes that would become infinity in this type.
    """
    rows, columns = weight.shape
    blocks = torch.empty(rows, type.row_bytes(columns), dtype=torch.uint8, device=weight.device)
    for part in _slices(rows, columns):
        blocks[part] = _encoded(type, weight[part], part.start).view(blocks[part].shape)
    return blocks


@torch.no_grad()
def encode_codes(type: BlockType, weight: QuantTensor) -> Tensor | None:
    """The codes and scales of a packed matrix as blocks, uint8 [rows, row_bytes]; None where they do not fit.

    They fit types with one scale per block: every level must be one of the type's, every scale a float16, and
    weights of one block must share theirs. K types are for `encode_blocks`.
    """
    rows, columns = weight.shape
    layout = LAYOUTS.get(type.name)
    if layout is None or layout.scales is not None or columns % type.block:
        return None
    blocks = weight.codes.new_empty(rows, type.row_bytes(columns))
    for part in _slices(rows, columns):
        parts = repack(layout, type.block, weight.rows(part.start, part.stop))
        if parts is None:
            return None
        blocks[part] = layout.pack(parts).view(blocks[part].shape)
    return blocks


def _slices(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _SLICE // columns)
    return (slice(first, min(rows, first + step)) for first in range(0, rows, step))


def _encoded(type: BlockType, weight: Tensor, row: int) -> Tensor:
    """Blocks uint8 [n, nbytes] of some rows, of which `row` is the number of the first."""
    numbers = weight.float().contiguous()
    _require_finite(numbers, row, "hold NaN or infinity, and so would all results. Fetch the model again")
    if type.name in PLAIN:
        plain = numbers.to(PLAIN[type.name])
        _require_finite(plain, row, _too_large(type))
        return plain.view(torch.uint8)
    layout = LAYOUTS[type.name]
    # Far beyond the range squares would overflow, and errors could not be compared.
    _require_finite(numbers.where(numbers.abs() <= layout.largest, torch.inf), row, _too_large(type))
    blocks = numbers.view(-1, type.block)
    parts = round_blocks(layout, blocks) if layout.scales is None else search_blocks(layout, blocks)
    for factor in (parts.d, parts.m):
        if factor is not None:
            _require_finite(factor.view(len(weight), -1), row, _too_large(type))
    return layout.pack(parts)


def _too_large(type: BlockType) -> str:
    return f"are too large for {type.name}, in which they would become infinity. Use F32 for this matrix"


def _require_finite(numbers: Tensor, row: int, otherwise: str) -> None:
    bad = ~numbers.isfinite().all(dim=1)
    if bad.any():
        first = row + int(bad.nonzero()[0])
        raise NotFinite(f"Weights in {int(bad.sum())} rows of a matrix, row {first} for one, {otherwise}.")
