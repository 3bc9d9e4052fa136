"""MLX's affine groups: unsigned codes along the inputs, a scale and the least weight of each group.

    W[o, i] = q[o, i] * scales[o, i / g] + biases[o, i / g]

weight uint32 [O, I * bits / 32]: each row is one stream of bits, lowest first. 5 and 6 bits have no
`QuantTensor` and are decoded: they take the memory of plain weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.checkpoint.layouts.words import as_bytes, as_words, kept_dtype
from minicpm.ops.quant_tensor import QuantTensor, Scheme, Weight

HELD_BITS = (2, 3, 4, 8)
BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (128, 64, 32)
_SLICE = 1 << 22  # codes decoded at a time


class Mlx(NamedTuple):
    """The tensors of one matrix [O, I]."""

    weight: Tensor
    scales: Tensor
    biases: Tensor


def unpack(held: Mlx, *, bits: int, group: int, dtype: torch.dtype) -> Weight:
    """The matrix of this dtype: packed, or decoded for bits that no `QuantTensor` has."""
    if bits not in HELD_BITS:
        return _decoded(held, bits, group, dtype)
    return QuantTensor(
        codes=as_bytes(held.weight),
        scales=held.scales,
        zeros=None,
        scheme=Scheme(bits=bits, group=group, symmetric=False),
        offsets=held.biases,
        result=kept_dtype(held.scales, dtype),
    )


def pack(weight: QuantTensor) -> Mlx:
    """The tensors of a matrix; zeros become offsets, in float32, as `exact_offsets` gives them."""
    offsets = weight.offsets if weight.offsets is not None else exact_offsets(weight)
    assert offsets is not None, "an offset is no number of the scales' dtype"
    return Mlx(as_words(weight.codes, torch.uint32), weight.scales, offsets)


def exact_offsets(weight: QuantTensor) -> Tensor | None:
    """-zero * scale of each group in the scales' dtype; None where that is rounded."""
    zeros = 2.0 ** (weight.scheme.bits - 1) if weight.zeros is None else weight.zeros.float()
    wanted = -zeros * weight.scales.float()
    offsets = wanted.to(weight.scales.dtype)
    return offsets if torch.equal(offsets.float(), wanted) else None


def _decoded(held: Mlx, bits: int, group: int, dtype: torch.dtype) -> Tensor:
    """In float32, rounded once."""
    outputs, inputs = len(held.scales), held.scales.shape[1] * group
    out = torch.empty(outputs, inputs, dtype=dtype)
    step = max(1, _SLICE // inputs)
    for first in range(0, outputs, step):
        part = slice(first, first + step)
        codes = _codes(as_bytes(held.weight[part]), bits)[:, :inputs]
        scaled = codes.reshape(len(codes), -1, group).float() * held.scales[part].float()[..., None]
        out[part] = (scaled + held.biases[part].float()[..., None]).flatten(1).to(dtype)
    return out


def _codes(data: Tensor, bits: int) -> Tensor:
    """The codes of a stream of bits [n, B], uint8."""
    stream = ((data[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1)
    count = stream.shape[1] // bits
    whole = stream[:, : count * bits].reshape(len(data), count, bits)
    return (whole << torch.arange(bits, dtype=torch.uint8)).sum(-1).to(torch.uint8)
