"""Joins projections of the same input into one matrix that their modules then view."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def fuse(linears: Sequence[nn.Linear]) -> Tensor:
    """The weights stacked, [sum of out, in]; each module's weight becomes a view of the result.

    Nothing is held twice and `state_dict` still shows the published names.
    """
    stacked = torch.cat([linear.weight for linear in linears])
    parts = stacked.split([linear.out_features for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)
    return stacked
