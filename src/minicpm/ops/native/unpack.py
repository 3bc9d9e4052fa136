"""Rows of a native matrix as they were before they were packed."""

import torch
from torch import Tensor

from minicpm.ops.native.matrix import MIDDLE, OFFSETS, PANEL, ZEROS, NativeMatrix, Part
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes


def unpacked(matrix: NativeMatrix, first: int, last: int) -> Part:
    """Rows `first` up to `last`, bfloat16 [n, I] or codes; copies.

    Scales and offsets are float32, those that the kernels compute with, one for each of their groups of
    columns.
    """
    held, slots = matrix.description, matrix.places()[first:last]
    panels = torch.frombuffer(matrix.buffer(), dtype=torch.uint8)
    groups = panels.view(len(matrix.order) // PANEL, held.inputs // held.group, -1)
    if matrix.bits == 16:
        return _by_slot(groups, 4)[slots].view(torch.bfloat16)
    codes = held.group * matrix.bits // 8 * PANEL
    scales = _by_slot(groups[..., codes : codes + 2 * PANEL], 2)[slots].view(torch.float16)
    shifts = groups[..., codes + 2 * PANEL :]
    zeros = _by_slot(shifts, 1)[slots] if held.shift == ZEROS else None
    offsets = _by_slot(shifts, 2)[slots].view(torch.float16) if held.shift == OFFSETS else None
    return QuantTensor(
        codes=pack_codes(_columns(_by_slot(groups[..., :codes], 4)[slots], matrix.bits), matrix.bits),
        scales=scales.float() * held.factor,
        zeros=zeros,
        scheme=Scheme(matrix.bits, held.group, symmetric=held.shift == MIDDLE),
        offsets=None if offsets is None else offsets.float() * held.factor,
    )


def _by_slot(part: Tensor, width: int) -> Tensor:
    """Bytes [panels, groups, n], `width` for each output of a panel in turn, as [slots, n * groups / 32]."""
    outputs = part.unflatten(-1, (-1, PANEL, width))
    return outputs.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1)


def _columns(data: Tensor, bits: int) -> Tensor:
    """Codes [n, I] of bytes [n, I * bits / 8] whose fields, lowest first, are those of every four columns."""
    quads = data.unflatten(1, (-1, 4))
    return torch.stack([(quads >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], dim=2).flatten(1)
