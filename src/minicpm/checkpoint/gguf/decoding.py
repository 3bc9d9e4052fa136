"""Blocks of weights in, numbers or a packed matrix out."""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from minicpm.checkpoint.gguf.layouts import LAYOUTS, Layout
from minicpm.checkpoint.gguf.reading import GgufTensor
from minicpm.checkpoint.gguf.types import BlockType
from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.reading import read_into
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes of types that are not quantized."""
# Weights taken apart at a time, so that what is computed with them stays small.
_SLICE = 1 << 18


def read_rows(tensor: GgufTensor, first: int = 0, last: int | None = None) -> Tensor:
    """Rows `first` up to `last` of a tensor as they lie in the file: uint8 [rows, row_bytes].

    All axes but the last count as rows: [8, O, I] has 8 * O, [I] has one. Raises TruncatedFile when the file
    has changed.
    """
    count = prod(tensor.shape[:-1])
    last = count if last is None else last
    assert 0 <= first <= last <= count, f"{tensor.name} has {count} rows, {first} to {last} are asked for"
    row_bytes = tensor.type.row_bytes(tensor.shape[-1])
    rows = torch.empty(last - first, row_bytes, dtype=torch.uint8)
    start = tensor.offset + first * row_bytes
    read_into(rows, TensorInfo(tuple(rows.shape), "U8", tensor.file, start, rows.nbytes))
    return rows


def decode_blocks(type: BlockType, data: Tensor) -> Tensor:
    """Blocks, uint8 [rows, row_bytes], as float32 [rows, columns], to the bit what ggml's reference gives."""
    if type.name in PLAIN:
        return data.contiguous().view(PLAIN[type.name]).float()
    weights = torch.empty(len(data), _columns(type, data), device=data.device)
    layout = LAYOUTS[type.name]
    for part, blocks in _slices(type, data):
        weights[part] = _values(layout, blocks).reshape(weights[part].shape)
    return weights


def codes_of(type: BlockType, data: Tensor, dtype: torch.dtype) -> QuantTensor | None:
    """The same matrix, of this dtype, in codes and scales; None where no grid holds it exactly.

    With float32 it decodes to the bits of `decode_blocks`. Plain types have no grid, nor has a block of TQ2_0
    with codes that stand for 2. Scales are float16 where the file has them so, else float32.
    """
    if type.name in PLAIN:
        return None
    layout, rows, columns = LAYOUTS[type.name], len(data), _columns(type, data)
    scheme = Scheme(bits=_bits(layout), group=layout.group, symmetric=layout.zero is not None)
    shift = 0 if layout.zero is None else 2 ** (scheme.bits - 1) - layout.zero
    codes = data.new_empty(rows, columns * scheme.bits // 8)
    scales = torch.empty(
        rows,
        columns // layout.group,
        dtype=torch.float32 if layout.scales else torch.float16,
        device=data.device,
    )
    offsets = torch.empty_like(scales) if layout.zero is None else None
    for part, blocks in _slices(type, data):
        parts = layout.unpack(blocks)
        if parts.codes.amax() > layout.top:
            return None
        codes[part] = pack_codes(parts.codes.view(-1, columns) + shift, scheme.bits)
        scales[part] = parts.steps().reshape(scales[part].shape)
        if offsets is not None:
            minima = parts.minima()
            assert minima is not None
            offsets[part] = minima.reshape(offsets[part].shape)
    return QuantTensor(codes, scales, None, scheme, offsets, result=dtype)


def _columns(type: BlockType, data: Tensor) -> int:
    return data.shape[1] // type.nbytes * type.block


def _slices(type: BlockType, data: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows at a time, and their blocks [n, nbytes]."""
    step = max(1, _SLICE // max(1, _columns(type, data)))
    for first in range(0, len(data), step):
        part = slice(first, first + step)
        yield part, data[part].reshape(-1, type.nbytes)


def _values(layout: Layout, blocks: Tensor) -> Tensor:
    """The weights [n, groups, group] of blocks, in float32."""
    parts = layout.unpack(blocks)
    codes = parts.codes.view(len(blocks), -1, layout.group).float()
    steps, minima = parts.steps().float()[..., None], parts.minima()
    if minima is not None:
        return codes * steps + minima.float()[..., None]
    assert layout.zero is not None
    return (codes - layout.zero) * steps


def _bits(layout: Layout) -> int:
    """The narrowest codes that hold the grid, around the middle where it has a zero."""
    return next(bits for bits in (2, 3, 4, 8) if layout.top < 2**bits)
