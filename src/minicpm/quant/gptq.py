"""GPTQ (arXiv 2210.17323): columns are rounded one by one, and the others make up for what each lost."""

from __future__ import annotations

import torch
from torch import Tensor

from minicpm.errors import NotFinite
from minicpm.quant.grid import Levels
from minicpm.quant.hessian import Moments

DAMPING = 0.01
"""Of the mean of the diagonal, added to it."""
BLOCK = 128
"""Columns after which the rest is corrected for all of them in one product."""
_GROWTH, _MOST_DAMPING = 10.0, 100.0


def gptq(weight: Tensor, levels: Levels, moments: Moments, *, damping: float = DAMPING) -> Tensor:
    """Codes float32 [O, I] for a matrix float32 [O, I], whose levels stay what they are.

    Columns come in the order of their inputs' mean squares, the largest first ("activation order"), while
    groups stay those of neighbours ("static groups"), so the result is an ordinary one. Raises NotFinite for
    inputs that are not.
    """
    diagonal = moments.second.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    factor = _inverse_factor(moments.second[order][:, order], damping)
    left, codes = weight[:, order].clone(), torch.empty_like(weight)
    for first in range(0, len(order), BLOCK):
        last = min(first + BLOCK, len(order))
        columns = order[first:last].tolist()
        errors = _block(left[:, first:last], codes, columns, factor[first:last, first:last], levels)
        left[:, last:] -= errors @ factor[first:last, last:]
    return codes


def _block(left: Tensor, codes: Tensor, columns: list[int], factor: Tensor, levels: Levels) -> Tensor:
    """Round columns, of which `left` [O, n] is left; their errors [O, n] over the diagonal of U [n, n]."""
    errors = torch.empty_like(left)
    for place, column in enumerate(columns):
        codes[:, column], values = levels.column(left[:, place], column)
        errors[:, place] = (left[:, place] - values) / factor[place, place]
        left[:, place + 1 :] -= errors[:, place, None] * factor[place, place + 1 :]
    return errors


def _inverse_factor(second: Tensor, damping: float) -> Tensor:
    """U upper triangular with U^T U the inverse of the damped second moments [I, I].

    Damping grows until there is one. An input that was always zero gets a diagonal of one: nothing is known
    of it, so its column is rounded to the nearest and changes no other.
    """
    if not bool(second.isfinite().all()):
        raise NotFinite(
            "What the calibration text gives a matrix holds NaN or infinity, so nothing can be measured with "
            "it. Check the model with `minicpm compare`, or use --method rtn, which needs no text."
        )
    diagonal = second.diagonal()
    dead = diagonal == 0
    mean = diagonal.mean()
    while True:
        damped = second + torch.diag(torch.where(dead, 1.0, damping * mean))
        factor = _try_inverse_factor(damped)
        if factor is not None or damping > _MOST_DAMPING:
            assert factor is not None, "a matrix that is nearly diagonal has a Cholesky factor"
            return factor
        damping *= _GROWTH


def _try_inverse_factor(damped: Tensor) -> Tensor | None:
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed or not bool(upper.isfinite().all()) else upper
