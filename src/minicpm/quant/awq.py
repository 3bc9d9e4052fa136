"""AWQ (arXiv 2306.00978): inputs that are large are given finer steps, by scaling columns before rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minicpm.quant.grid import Grid, Levels, levels_of
from minicpm.quant.hessian import Moments, output_errors

STEPS = 20
"""Exponents of the inputs' sizes that are tried, beside 0."""
_SMALLEST = 1e-4
_CLIPS = tuple(1 - step / 20 for step in range(1, 11))


def search_scale(
    weights: Sequence[Tensor], grids: Sequence[Grid], moments: Moments, *, size: Tensor, dtype: torch.dtype
) -> Tensor:
    """What the columns of matrices float32 [O, I] of the same inputs are best multiplied with, [I].

    The inputs are then to be divided by it. It is size^(k / 20) for the k in 0 .. 20 whose outputs are
    nearest to the exact ones, with the `size` [I] of the inputs; of k = 0 all ones.
    """
    scales = [_scale(size, step / STEPS) for step in range(STEPS + 1)]
    pairs = list(zip(weights, grids, strict=True))
    errors = [sum(_error(w, grid, scale, moments, dtype) for w, grid in pairs) for scale in scales]
    return scales[errors.index(min(errors))]


def clipped(weight: Tensor, levels: Levels, moments: Moments | None) -> Levels:
    """Levels whose groups may be narrower, where the outputs of a matrix float32 [O, I] are nearer for it.

    Groups are judged by themselves, then each output as a whole: it keeps what it had where that was better.
    """
    if moments is None:
        return levels
    group = levels.grid.group
    second = moments.blocks(group)
    best = torch.ones_like(levels.scales, dtype=torch.float32)
    least = _group_errors(weight, levels, second)
    for clip in _CLIPS:
        error = _group_errors(weight, levels.scaled(clip), second)
        best, least = torch.where(error < least, clip, best), torch.minimum(error, least)
    return _better_rows(weight, levels.scaled(best), levels, moments)


def _better_rows(weight: Tensor, tried: Levels, known: Levels, moments: Moments) -> Levels:
    def errors(levels: Levels) -> Tensor:
        return output_errors(levels.values(levels.codes(weight)) - weight, moments)

    better = errors(tried) < errors(known)
    return replace(known, scales=torch.where(better[:, None], tried.scales, known.scales))


def _group_errors(weight: Tensor, levels: Levels, second: Tensor) -> Tensor:
    """Mean square error [O, G] that each group by itself brings to each output."""
    off = (levels.values(levels.codes(weight)) - weight).unflatten(1, (-1, levels.grid.group))
    by_group = off.transpose(0, 1)
    return ((by_group @ second) * by_group).sum(dim=-1).t()


def _scale(size: Tensor, exponent: float) -> Tensor:
    scale = size.clamp_min(_SMALLEST) ** exponent
    return scale / (scale.max() * scale.min()).sqrt()


def _error(weight: Tensor, grid: Grid, scale: Tensor, moments: Moments, dtype: torch.dtype) -> float:
    scaled = weight * scale
    levels = levels_of(scaled, grid, dtype)
    return output_errors(levels.values(levels.codes(scaled)) / scale - weight, moments).sum().item()
