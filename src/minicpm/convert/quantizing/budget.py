"""Chooses the bits of every matrix under a budget of bytes, from how far off each is at how many bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from minicpm.errors import BadParameter
from minicpm.quant.grid import Grid, levels_of
from minicpm.quant.hessian import Moments, relative_error


@dataclass(frozen=True, slots=True)
class Measured:
    """What a matrix costs and loses by bits: bytes, and the square of its relative output error."""

    weights: int
    nbytes: Mapping[int, int]
    loss: Mapping[int, float]


def measure(
    weight: Tensor, grids: Mapping[int, Grid], moments: Moments | None, *, dtype: torch.dtype
) -> Measured:
    """For a matrix float32 [O, I] rounded to the nearest on the grid of each number of bits."""
    rows, columns = weight.shape
    nbytes = {bits: grid.nbytes(rows, columns, dtype.itemsize) for bits, grid in grids.items()}
    loss = {bits: _loss(weight, grid, moments, dtype) for bits, grid in grids.items()}
    return Measured(rows * columns, nbytes, loss)


def choose(matrices: Mapping[str, Measured], budget: float) -> dict[str, int]:
    """Bits of every matrix, so that all together take at most `budget` bits per weight.

    All start with the fewest; then the step that takes the most loss away per byte is made, again and again,
    as long as one fits. Raises BadParameter when even the fewest do not.
    """
    room = budget / 8 * sum(matrix.weights for matrix in matrices.values())
    chosen = {name: min(matrix.nbytes) for name, matrix in matrices.items()}
    left = room - sum(matrix.nbytes[chosen[name]] for name, matrix in matrices.items())
    if left < 0:
        raise BadParameter(_too_small(matrices, budget))
    while (step := _best_step(matrices, chosen, left)) is not None:
        name, bits = step
        left -= matrices[name].nbytes[bits] - matrices[name].nbytes[chosen[name]]
        chosen[name] = bits
    return chosen


def _best_step(
    matrices: Mapping[str, Measured], chosen: Mapping[str, int], left: float
) -> tuple[str, int] | None:
    """The matrix and its new bits whose loss falls most per byte, among those that fit."""
    best, step = 0.0, None
    for name, matrix in matrices.items():
        now = chosen[name]
        for bits in matrix.nbytes:
            more = matrix.nbytes[bits] - matrix.nbytes[now]
            if bits <= now or more > left:
                continue
            gain = (matrix.loss[now] - matrix.loss[bits]) / more
            if gain > best:
                best, step = gain, (name, bits)
    return step


def _loss(weight: Tensor, grid: Grid, moments: Moments | None, dtype: torch.dtype) -> float:
    levels = levels_of(weight, grid, dtype)
    return relative_error(weight, levels.values(levels.codes(weight)), moments) ** 2


def _too_small(matrices: Mapping[str, Measured], budget: float) -> str:
    fewest = sum(min(matrix.nbytes.values()) for matrix in matrices.values())
    per_weight = 8 * fewest / sum(matrix.weights for matrix in matrices.values())
    return (
        f"A budget of {budget:g} bits per weight cannot be met: with the fewest bits, scales included, the "
        f"matrices take {per_weight:.3f}. Give a larger budget, or larger groups."
    )
