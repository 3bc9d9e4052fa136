"""Joins projections of the same input into one matrix that their modules then view, and applies them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minicpm.layers.lora import adapted
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.linear import linear
from minicpm.ops.quant_tensor import QuantTensor, Weight, joined


def fuse(linears: Sequence[nn.Linear]) -> Weight:
    """The weights under each other, [sum of out, in]; each module's weight becomes a view of the result.

    Nothing is held twice and `state_dict` still shows the published names. Packed weights stay packed.
    """
    packed = [projection for projection in linears if isinstance(projection, QuantLinear)]
    if not packed:
        return _fuse_plain(linears)
    assert len(packed) == len(linears), "projections of one input are packed together or not at all"
    return _fuse_packed(packed)


@torch.no_grad()
def _fuse_plain(linears: Sequence[nn.Linear]) -> Tensor:
    stacked = torch.cat([projection.weight for projection in linears])
    parts = stacked.split([projection.out_features for projection in linears])
    for projection, part in zip(linears, parts, strict=True):
        projection.weight = nn.Parameter(part, requires_grad=False)
    return stacked


def _fuse_packed(linears: Sequence[QuantLinear]) -> QuantTensor:
    stacked = joined([projection.packed for projection in linears])
    first = 0
    for projection in linears:
        projection.hold(stacked.rows(first, first + projection.out_features))
        first += projection.out_features
    return stacked


def project(x: Tensor, linears: Sequence[nn.Linear], fused: Weight | None) -> tuple[Tensor, ...]:
    """x [T, I] through each projection: by one product where `fused` is their joint matrix."""
    if fused is None:
        return tuple(projection(x) for projection in linears)
    parts = linear(x, fused).split([projection.out_features for projection in linears], dim=-1)
    return tuple(adapted(projection, x, part) for projection, part in zip(linears, parts, strict=True))
