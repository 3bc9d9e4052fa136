"""A product with a packed matrix that is decoded byte by byte."""

from functools import cache

import torch
from torch import Tensor, nn

from minicpm.ops.native.matrix import NativeMatrix
from minicpm.ops.quant_tensor import QuantTensor, decode

Weight = Tensor | QuantTensor | NativeMatrix
"""What a product can be made with."""


def linear(x: Tensor, weight: Weight) -> Tensor:
    """As the reference, to the same bits: the matrix is decoded whole, for a product in the same order.

    One in the kernels' layout is multiplied by them.
    """
    if isinstance(weight, NativeMatrix):
        return weight(x)
    return nn.functional.linear(x, weight if isinstance(weight, Tensor) else decode_by_byte(weight))


def decode_by_byte(weight: QuantTensor) -> Tensor:
    """The matrix [O, I] as `decode` gives it; each byte is looked up as the numbers of all its codes.

    code - 2^(bits - 1) is exact in every dtype, so the product with the scale is rounded once here too.
    """
    if not weight.scheme.symmetric or 8 % weight.scheme.bits or weight.scales.dtype != weight.dtype:
        return decode(weight)
    table = _numbers(weight.scheme.bits, weight.dtype, weight.codes.device)
    rows = nn.functional.embedding(weight.codes.int(), table).flatten(1)[:, : weight.shape[1]]
    grouped = rows.unflatten(1, (-1, weight.scheme.group))
    return grouped.mul_(weight.scales[..., None]).flatten(1)


@cache
def _numbers(bits: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """For each byte the symmetric codes in it, [256, 8 / bits]."""
    byte = torch.arange(256, device=device)
    codes = [(byte >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return (torch.stack(codes, dim=-1) - 2 ** (bits - 1)).to(dtype)
