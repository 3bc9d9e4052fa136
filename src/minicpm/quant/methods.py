"""Ways to round matrices, as values that combine: how inputs are scaled, how codes are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minicpm.errors import BadParameter
from minicpm.quant.awq import clipped, search_scale
from minicpm.quant.gptq import DAMPING, gptq
from minicpm.quant.grid import Grid, Levels, levels_of
from minicpm.quant.hessian import Moments, output_errors

OUTLIERS = 4
"""Positions at the start of a sequence whose inputs P-GPTQ leaves out (MiniCPM4, arXiv 2506.07900, 4.1.2)."""


class Rounded(NamedTuple):
    """Codes float32 [O, I] and what they mean."""

    codes: Tensor
    levels: Levels


class Rounding(Protocol):
    """How the codes of one matrix are chosen."""

    @property
    def needs_inputs(self) -> bool:
        """Whether moments of the inputs are used."""
        ...

    @property
    def skipped(self) -> int:
        """Positions at the start of each sequence whose inputs the moments leave out."""
        ...

    def round(self, weight: Tensor, grid: Grid, moments: Moments | None, dtype: torch.dtype) -> Rounded:
        """Codes for a matrix float32 [O, I], with scales of `dtype`.

        Without moments, as for an expert that no calibration token chose, inputs count as alike.
        """
        ...


class Scaling(Protocol):
    """How the inputs of matrices are scaled before they are rounded."""

    def search(
        self,
        weights: Sequence[Tensor],
        grids: Sequence[Grid],
        moments: Moments,
        *,
        size: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """The factor of each column [I], for matrices float32 [O, I] of the same inputs."""
        ...


@dataclass(frozen=True, slots=True)
class Nearest:
    """Each weight by itself ("rtn")."""

    needs_inputs: bool = False
    skipped: int = 0

    def round(self, weight: Tensor, grid: Grid, moments: Moments | None, dtype: torch.dtype) -> Rounded:
        """As of every Rounding."""
        levels = levels_of(weight, grid, dtype)
        return Rounded(levels.codes(weight), levels)


@dataclass(frozen=True, slots=True)
class Clipped:
    """Each weight by itself, in ranges that bring the outputs nearest."""

    needs_inputs: bool = True
    skipped: int = 0

    def round(self, weight: Tensor, grid: Grid, moments: Moments | None, dtype: torch.dtype) -> Rounded:
        """As of every Rounding."""
        levels = clipped(weight, levels_of(weight, grid, dtype), moments)
        return Rounded(levels.codes(weight), levels)


@dataclass(frozen=True, slots=True)
class Gptq:
    """Column by column; an output keeps the nearest codes where they serve it better."""

    skipped: int = 0
    damping: float = DAMPING
    needs_inputs: bool = True

    def round(self, weight: Tensor, grid: Grid, moments: Moments | None, dtype: torch.dtype) -> Rounded:
        """As of every Rounding."""
        levels = levels_of(weight, grid, dtype)
        nearest = levels.codes(weight)
        if moments is None:
            return Rounded(nearest, levels)
        found = gptq(weight, levels, moments, damping=self.damping)
        before, after = (output_errors(levels.values(c) - weight, moments) for c in (nearest, found))
        return Rounded(torch.where((after < before)[:, None], found, nearest), levels)


@dataclass(frozen=True, slots=True)
class Ternary:
    """Nothing is chosen: the weights of a group must be -s, 0 and s already, as `quant.ternary` measures."""

    needs_inputs: bool = False
    skipped: int = 0

    def round(self, weight: Tensor, grid: Grid, moments: Moments | None, dtype: torch.dtype) -> Rounded:
        """As of every Rounding; a grid of 2 bits in groups that fit."""
        scales = weight.unflatten(1, (-1, grid.group)).abs().amax(dim=-1)
        return Rounded(weight.sign() + 2, Levels(grid, scales.to(dtype), None))


@dataclass(frozen=True, slots=True)
class InputScaling:
    """Large inputs get finer steps ("awq")."""

    def search(
        self,
        weights: Sequence[Tensor],
        grids: Sequence[Grid],
        moments: Moments,
        *,
        size: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """As of every Scaling."""
        return search_scale(weights, grids, moments, size=size, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Method:
    """A name, how codes are chosen, and how inputs are scaled before, if they are."""

    name: str
    rounding: Rounding
    scaling: Scaling | None = None

    @property
    def needs_inputs(self) -> bool:
        """Whether a calibration text is needed."""
        return self.scaling is not None or self.rounding.needs_inputs


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("rtn", Nearest()),
        Method("ternary", Ternary()),
        Method("gptq", Gptq()),
        Method("pgptq", Gptq(skipped=OUTLIERS)),
        Method("awq", Clipped(), InputScaling()),
        Method("awq+gptq", Gptq(), InputScaling()),
        Method("awq+pgptq", Gptq(skipped=OUTLIERS), InputScaling()),
    )
}


def find_method(name: str) -> Method:
    """The method of that name; BadParameter, listing the known ones, for another."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        asked = f" Did you mean {near[0]!r}?" if near else ""
        raise BadParameter(f"The method {name!r} is not known.{asked} Use one of: {', '.join(METHODS)}.")
    return METHODS[name]
