"""Joins projections of the same input into one matrix that their modules then view, and applies them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.layers.lora import adapted


@torch.no_grad()
def fuse(linears: Sequence[nn.Linear]) -> Tensor:
    """The weights stacked, [sum of out, in]; each module's weight becomes a view of the result.

    Nothing is held twice and `state_dict` still shows the published names.
    """
    stacked = torch.cat([projection.weight for projection in linears])
    parts = stacked.split([projection.out_features for projection in linears])
    for projection, part in zip(linears, parts, strict=True):
        projection.weight = nn.Parameter(part, requires_grad=False)
    return stacked


def project(x: Tensor, linears: Sequence[nn.Linear], fused: Tensor | None) -> tuple[Tensor, ...]:
    """x [T, I] through each projection: by one product where `fused` is their joint matrix."""
    if fused is None:
        return tuple(projection(x) for projection in linears)
    parts = linear(x, fused).split([projection.out_features for projection in linears], dim=-1)
    return tuple(adapted(projection, x, part) for projection, part in zip(linears, parts, strict=True))
