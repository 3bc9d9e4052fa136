"""Positions of patches on a two-dimensional grid: fixed sine-cosine ones, and learned ones resized."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class Grid(NamedTuple):
    """Rows and columns of patches, counted row by row."""

    height: int
    width: int


def sincos_2d(grid: Grid, width: int, *, device: torch.device | None = None) -> Tensor:
    """Fixed positions [h * w, D] float32: the first half encodes the column, the second half the row.

    Within each half of D/2 values: sin(p * omega_j), then cos(p * omega_j), omega_j = 10000^(-j / (D/4)).
    The two-dimensional form (arXiv:2111.06377, appendix) of arXiv:1706.03762, section 3.5.
    """
    rows = torch.arange(grid.height, device=device).repeat_interleave(grid.width)
    columns = torch.arange(grid.width, device=device).repeat(grid.height)
    return torch.cat([_sincos(columns, width // 2), _sincos(rows, width // 2)], dim=1)


def _sincos(positions: Tensor, width: int) -> Tensor:
    """[T, width] float32 of positions [T]."""
    steps = torch.arange(width // 2, dtype=torch.float64, device=positions.device)
    omega = 10000.0 ** (-steps / (width // 2))
    angles = positions[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def resized(positions: Tensor, old: Grid, new: Grid, *, antialias: bool) -> Tensor:
    """Positions [h * w, D] of one grid as those of another: bicubic, pixel corners not aligned.

    The arithmetic is in float32; the result has the dtype of the positions. With `antialias` a coarser grid
    averages what it covers, as image libraries do.
    """
    if new == old:
        return positions
    planes = positions.float().unflatten(0, tuple(old)).permute(2, 0, 1)[None]
    scaled = interpolate(planes, size=list(new), mode="bicubic", align_corners=False, antialias=antialias)
    return scaled[0].flatten(1).T.to(positions.dtype)
