"""What a matrix can be rounded to: codes of some bits, and the levels of each group of columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes
from minicpm.quant.rounding import best_scale

_ZERO_BYTES = 1
# Shares of the whole range that an asymmetric group is tried with: its extremes may fall short of themselves.
# 8 bits lose more by that than they win.
_RANGES = {
    8: (1.0,),
    4: (1.0, 0.95, 0.9, 0.85, 0.8),
    3: (1.0, 0.95, 0.9, 0.85, 0.8, 0.7),
    2: (1.0, 0.9, 0.8, 0.7, 0.6),
}


@dataclass(frozen=True, slots=True)
class Grid:
    """`bits` per code and `group` columns per scale; where it is not symmetric, each group has a zero too."""

    bits: int
    group: int
    symmetric: bool = True

    @property
    def top(self) -> int:
        """The highest code."""
        return 2**self.bits - 1

    @property
    def scheme(self) -> Scheme:
        """Of a matrix in such codes."""
        return Scheme(bits=self.bits, group=self.group, symmetric=self.symmetric)

    def nbytes(self, rows: int, columns: int, scale_bytes: int) -> int:
        """Bytes of a matrix in such codes, whose scales take so many each."""
        per_group = scale_bytes + (0 if self.symmetric else _ZERO_BYTES)
        return rows * (-(-columns * self.bits // 8) + columns // self.group * per_group)


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """The scales [O, G] of a matrix, in the dtype they are stored in, and its zeros uint8 [O, G] if any."""

    grid: Grid
    scales: Tensor
    zeros: Tensor | None

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes of weights float32 [O, I], as float32 [O, I]."""
        grouped = weight.unflatten(1, (-1, self.grid.group))
        scale, zero = self._parts()
        return _nearest(grouped, scale[..., None], zero[..., None], self.grid.top).flatten(1)

    def column(self, weights: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The nearest codes of column `index` with weights float32 [O], and what they stand for."""
        group = index // self.grid.group
        scale, half = self.scales[:, group].float(), torch.full_like(weights, 2 ** (self.grid.bits - 1))
        zero = half if self.zeros is None else self.zeros[:, group].float()
        codes = _nearest(weights, scale, zero, self.grid.top)
        return codes, (codes - zero) * scale

    def values(self, codes: Tensor) -> Tensor:
        """What codes [O, I] stand for, float32 [O, I]."""
        scale, zero = self._parts()
        return ((codes.unflatten(1, (-1, self.grid.group)) - zero[..., None]) * scale[..., None]).flatten(1)

    def tensor(self, codes: Tensor, result: torch.dtype) -> QuantTensor:
        """The matrix of these codes [O, I], standing for one of dtype `result`."""
        packed = pack_codes(codes.to(torch.uint8), self.grid.bits)
        kept = None if result == self.scales.dtype else result
        return QuantTensor(packed, self.scales, self.zeros, self.grid.scheme, result=kept)

    def scaled(self, factor: Tensor | float) -> Levels:
        """Levels that are `factor` (one, or [O, G]) times as far apart, around the same zeros."""
        return replace(self, scales=(self.scales.float() * factor).to(self.scales.dtype))

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Scales and zeros float32 [O, G]."""
        scale = self.scales.float()
        if self.zeros is None:
            return scale, torch.full_like(scale, 2 ** (self.grid.bits - 1))
        return scale, self.zeros.float()


def levels_of(weight: Tensor, grid: Grid, dtype: torch.dtype) -> Levels:
    """The levels that each group of a matrix float32 [O, I] is nearest to itself with; scales as `dtype`."""
    grouped = weight.unflatten(1, (-1, grid.group))
    if grid.symmetric:
        return Levels(grid, best_scale(grouped, grid.bits, dtype)[..., 0].to(dtype), None)
    return _ranges(grouped, grid, dtype)


def _ranges(grouped: Tensor, grid: Grid, dtype: torch.dtype) -> Levels:
    """Levels over all or most of what each group spans, zero included so that it stays zero."""
    most, least = grouped.amax(dim=-1).clamp_min(0), grouped.amin(dim=-1).clamp_max(0)
    best, error = None, None
    for share in _RANGES[grid.bits]:
        scale = ((most - least) * (share / grid.top)).to(dtype).float()
        zero = (-least * share * _inverse(scale)).round().clamp(0, grid.top)
        codes = _nearest(grouped, scale[..., None], zero[..., None], grid.top)
        found = ((codes - zero[..., None]) * scale[..., None] - grouped).square().sum(dim=-1)
        if best is None or error is None:
            best, error = (scale, zero), found
            continue
        better = found < error
        best = (torch.where(better, scale, best[0]), torch.where(better, zero, best[1]))
        error = torch.minimum(error, found)
    assert best is not None
    return Levels(grid, best[0].to(dtype), best[1].to(torch.uint8))


def _nearest(weight: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    return (weight * _inverse(scale)).round_().add_(zero).clamp_(0, top)


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the scale is 0."""
    return scale.reciprocal().nan_to_num_(posinf=0, neginf=0)
