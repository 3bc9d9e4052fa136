"""Marlin: symmetric 4-bit codes in the order in which the threads of a GPU take them.

The codes q [I, O] are cut into tiles of 16 x 16, [I / 16, O / 16, 16, 16]; four tiles side by side are a row
of 1024, put in the order P, and eight codes make an int32, lowest first: [I / 16, 2 O]. Scales [I / g, O] are
put in an order of their own in rows of 64, those of whole columns in rows of 32.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.checkpoint.layouts.words import as_bytes, as_words, kept_dtype
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes, unpack_codes

BITS, TILE = 4, 16
COLUMNS = 4 * TILE
"""Outputs in one row of the order P; matrices side by side may be cut at any multiple of it."""
_INTERLEAVE = (0, 2, 4, 6, 1, 3, 5, 7)


class Marlin(NamedTuple):
    """The tensors of one matrix [O, I]."""

    qweight: Tensor
    scales: Tensor

    def outputs(self, first: int, last: int) -> "Marlin":
        """Those of outputs `first` up to `last`, multiples of 64, of matrices side by side."""
        return Marlin(self.qweight[:, 2 * first : 2 * last], self.scales[:, first:last])


def unpack(held: Marlin, *, dtype: torch.dtype) -> QuantTensor:
    """The matrix of this dtype; shapes must have been checked."""
    groups, outputs = held.scales.shape
    inputs = TILE * len(held.qweight)
    slots = unpack_codes(as_bytes(held.qweight), BITS, TILE * outputs).reshape(-1, 1024)
    tiles = slots[:, _inverse(_weight_order())].reshape(inputs // TILE, outputs // TILE, TILE, TILE)
    rows, order = held.scales, _scale_order(groups)
    scales = rows.reshape(-1, len(order))[:, _inverse(order)].reshape(groups, outputs)
    return QuantTensor(
        codes=pack_codes(tiles.permute(1, 3, 0, 2).reshape(outputs, inputs), BITS),
        scales=scales.t().contiguous(),
        zeros=None,
        scheme=Scheme(bits=BITS, group=inputs // groups),
        result=kept_dtype(held.scales, dtype),
    )


def pack(weight: QuantTensor) -> Marlin:
    """The tensors of a symmetric matrix of 4 bits; I must be a multiple of 16 and O one of 64."""
    assert weight.scheme.symmetric, "Marlin has no zeros"
    assert weight.scheme.bits == BITS, "Marlin has 4 bits"
    outputs, inputs = weight.shape
    codes = unpack_codes(weight.codes, BITS, inputs)
    tiles = codes.reshape(outputs // TILE, TILE, inputs // TILE, TILE).permute(2, 0, 3, 1)
    slots = tiles.reshape(-1, 1024)[:, _weight_order()].reshape(inputs // TILE, TILE * outputs)
    scales = weight.scales.t()
    order = _scale_order(len(scales))
    ordered = scales.reshape(-1, len(order))[:, order].reshape(scales.shape)
    return Marlin(as_words(pack_codes(slots, BITS)), ordered.contiguous())


@cache
def _weight_order() -> Tensor:
    """P: which of four tiles' 1024 codes lies in each place."""
    order: list[int] = []
    for thread in range(32):
        column, rows = thread // 4, (2 * (thread % 4), 2 * (thread % 4 + 4))
        own = [
            TILE * (row + next_) + column + 8 * block for block in (0, 1) for row in rows for next_ in (0, 1)
        ]
        order += [place + 256 * tile for tile in range(4) for place in own]
    return torch.tensor(order).reshape(-1, 8)[:, list(_INTERLEAVE)].flatten()


@cache
def _scale_order(groups: int) -> Tensor:
    if groups > 1:
        return torch.tensor([i + 8 * j for i in range(8) for j in range(8)])
    return torch.tensor([2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)])


def _inverse(order: Tensor) -> Tensor:
    return order.argsort()
