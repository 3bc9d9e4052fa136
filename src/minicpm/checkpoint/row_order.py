"""The two orders in which the rows of a query or key projection may lie: in halves, or in pairs.

Rotary embedding turns two rows of a head together: as published row i and row i + width / 2, in llama.cpp's
files rows 2i and 2i + 1. Only whole rows change places, so packed matrices and blocks are moved as they are.
"""

from typing import TypeVar

from torch import Tensor

from minicpm.ops.quant_tensor import QuantTensor, Weight

W = TypeVar("W", Tensor, QuantTensor, Weight)


def to_pairs(weight: W, heads: int) -> W:
    """The published rows of a matrix [O, ...] as files of llama.cpp have them."""
    return _exchanged(weight, (heads, 2, -1))


def from_pairs(weight: W, heads: int) -> W:
    """The rows of a matrix [O, ...] from a file of llama.cpp as they are published."""
    return _exchanged(weight, (heads, -1, 2))


def _exchanged(weight: W, split: tuple[int, int, int]) -> W:
    """Rows split into three axes, with the last two of them exchanged."""

    def part(values: Tensor) -> Tensor:
        return values.reshape(*split, *values.shape[1:]).transpose(1, 2).flatten(0, 2)

    return weight.each(part) if isinstance(weight, QuantTensor) else part(weight)
