"""Root-mean-square norm with a learned gain."""

import torch
from torch import Tensor, nn

from minicpm.ops.backend import Backend


class RMSNorm(nn.Module):
    """`weight` [D], applied over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, ops: Backend) -> Tensor:
        """x [..., D] normalised."""
        return ops.rms_norm(x, self.weight, self.eps)
