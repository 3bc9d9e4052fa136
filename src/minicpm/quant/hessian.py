"""What is kept of the inputs of a matrix: enough to know how far off its outputs are when it is rounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Moments:
    """Running means over rows x of calibration: `second` of x x^T, float32 [I, I], `size` of |x| [I].

    `rows` counts them. What left out rows of a sequence's start, as P-GPTQ does, never sees them.
    """

    second: Tensor
    size: Tensor
    rows: int = 0

    @classmethod
    def of_width(cls, width: int, device: torch.device | None = None) -> Moments:
        """Of no rows yet, with `width` inputs each."""
        return cls(torch.zeros(width, width, device=device), torch.zeros(width, device=device))

    def add(self, x: Tensor) -> None:
        """Count rows [n, I]."""
        if len(x) == 0:
            return
        x = x.float()
        before, self.rows = self.rows, self.rows + len(x)
        keep = before / self.rows
        self.second.mul_(keep).addmm_(x.t(), x, alpha=1 / self.rows)
        self.size.mul_(keep).add_(x.abs().sum(dim=0), alpha=1 / self.rows)

    def divided(self, scale: Tensor) -> Moments:
        """Of inputs x / scale, for a scale [I]."""
        return Moments(self.second / (scale[:, None] * scale), self.size / scale, self.rows)

    def blocks(self, group: int) -> Tensor:
        """The second moments within each group of inputs, [I / group, group, group]."""
        grouped = self.second.unflatten(0, (-1, group)).unflatten(2, (-1, group))
        return grouped.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def output_errors(difference: Tensor, moments: Moments | None) -> Tensor:
    """Mean square error [O] of each output of a matrix that is off by `difference` float32 [O, I].

    Without moments inputs are taken as independent and alike.
    """
    if moments is None:
        return difference.square().sum(dim=1)
    return ((difference @ moments.second) * difference).sum(dim=1).clamp_min(0)


def relative_error(weight: Tensor, rounded: Tensor, moments: Moments | None) -> float:
    """Root of the mean square error of W x over that of W x itself, for matrices float32 [O, I]."""
    whole = output_errors(weight, moments).sum().item()
    off = output_errors(rounded - weight, moments).sum().item()
    return (off / whole) ** 0.5 if whole > 0 else 0.0
