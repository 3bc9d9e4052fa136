"""Rounds blocks whose groups have integer scales (the K types), looking for the least squared error.

Each group first finds the step, and the minimum, that suit it best by itself. They are rounded to multiples
of what the block holds and tried one up and one down; then the block's factors are fitted to the codes that
came out, and so on. Axes: n blocks, G groups of a block, g weights of a group. Weights lie as [g, n, G], so
that what is done to every group runs along long rows.
"""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from minicpm.checkpoint.gguf.layouts import Layout, Parts

# How many codes more or fewer than a group has are laid between its extremes, when its step is looked for.
_STRETCHES = (0, -1, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1)
# After the second round the error falls by less than 0.1 %.
_ROUNDS = 2
# How much less than the largest integer the largest scale may become, where that suits float16 better.
_SPARED = (1, 3, 5, 7)
# Steps of a scale and of its minimum; in opposite directions they seldom help.
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1))


def search_blocks(layout: Layout, blocks: Tensor) -> Parts:
    """Blocks float32 [n, block] as Parts; `d` or `m` is infinite where float16 cannot hold them."""
    grouped = blocks.reshape(len(blocks), -1, layout.group).permute(2, 0, 1).contiguous()
    if layout.zero is None:
        return _WithMinimum(layout, grouped).found()
    return _WithZero(layout, layout.zero, grouped).found()


class _Steps(NamedTuple):
    """Factors d [n, 1], integer scales [n, G] and squared errors [n, G] of blocks whose codes have a zero."""

    d: Tensor
    scales: Tensor
    error: Tensor


class _WithZero:
    """A weight is d * scale * (code - zero)."""

    def __init__(self, layout: Layout, zero: int, grouped: Tensor) -> None:
        assert layout.scales is not None
        self.least, self.most = -zero, layout.top - zero
        self.low, self.high = layout.scales
        self.grouped = grouped
        self.room = torch.empty_like(grouped)

    def found(self) -> Parts:
        ideal = self._ideal()
        peak = ideal.gather(1, ideal.abs().argmax(dim=1, keepdim=True))
        best = self._rounded(ideal, peak / self.low)
        for spared in _SPARED:
            best = _better(best, self._rounded(ideal, peak / (self.low + spared)))
        best = self._around(best.d, best.scales)
        for _ in range(_ROUNDS):
            best = _better(best, self._around(self._fitted(best), best.scales))
        codes = self._levels(best.d.float() * best.scales) - self.least
        return Parts(_rows(codes), best.d, scales=best.scales.to(torch.int16))

    def _ideal(self) -> Tensor:
        """The step [n, G] of the least error, of those fitted to a few roundings of the group."""
        peak = self.grouped.gather(0, self.grouped.abs().argmax(dim=0, keepdim=True))[0]
        best = torch.zeros_like(peak)
        gained = torch.zeros_like(peak)
        for stretch in _STRETCHES:
            levels = self._levels(peak / (self.least + stretch))
            squares = levels.square().sum(dim=0)
            products = levels.mul_(self.grouped).sum(dim=0)
            step = products * _inverse(squares)
            gain = step * products
            best = torch.where(gain > gained, step, best)
            gained = torch.maximum(gained, gain)
        return best

    def _around(self, d: Tensor, scales: Tensor) -> _Steps:
        """The better of these scales and their neighbours."""
        factor = d.float()
        best, error = scales, self._error(factor * scales)
        for other in ((scales - 1).clamp_min(self.low), (scales + 1).clamp_max(self.high)):
            tried = self._error(factor * other)
            best = torch.where(tried < error, other, best)
            error = torch.minimum(error, tried)
        return _Steps(d, best, error)

    def _rounded(self, ideal: Tensor, d: Tensor) -> _Steps:
        d = _half_away(d)
        scales = (ideal * _inverse(d.float())).round().clamp(self.low, self.high)
        return _Steps(d, scales, self._error(d.float() * scales))

    def _fitted(self, best: _Steps) -> Tensor:
        """The factor [n, 1] that is nearest to blocks with their codes and scales."""
        whole = self._levels(best.d.float() * best.scales) * best.scales
        products = (whole * self.grouped).sum(dim=(0, 2))
        return (products * _inverse(whole.square().sum(dim=(0, 2))))[:, None].half()

    def _levels(self, step: Tensor) -> Tensor:
        """Codes less the zero, for steps [n, G], in a room that the next call writes over."""
        scaled = torch.mul(self.grouped, _inverse(step), out=self.room)
        return scaled.round_().clamp_(self.least, self.most)

    def _error(self, step: Tensor) -> Tensor:
        return self._levels(step).mul_(step).sub_(self.grouped).square_().sum(dim=0)


class _Lines(NamedTuple):
    """Factors d and m [n, 1], integer scales and mins [n, G] and squared errors [n, G] of blocks."""

    d: Tensor
    m: Tensor
    scales: Tensor
    mins: Tensor
    error: Tensor


_Choice = TypeVar("_Choice", _Steps, _Lines)


class _WithMinimum:
    """A weight is d * scale * code - m * min, with nothing below zero."""

    def __init__(self, layout: Layout, grouped: Tensor) -> None:
        assert layout.scales is not None
        self.top, self.high = layout.top, layout.scales[1]
        self.grouped = grouped
        self.room = torch.empty_like(grouped)

    def found(self) -> Parts:
        steps, minima = self._ideal()
        best = self._rounded(steps, minima, self.high)
        for spared in _SPARED:
            best = _better(best, self._rounded(steps, minima, self.high - spared))
        best = self._around(best.d, best.m, best.scales, best.mins)
        for _ in range(_ROUNDS):
            best = _better(best, self._around(*self._fitted(best), best.scales, best.mins))
        codes = self._codes(best.d.float() * best.scales, best.m.float() * best.mins)
        scales, mins = best.scales.to(torch.int16), best.mins.to(torch.int16)
        return Parts(_rows(codes), best.d, best.m, scales, mins)

    def _ideal(self) -> tuple[Tensor, Tensor]:
        """The step and the minimum [n, G] of the least error, of those fitted to a few roundings."""
        lowest = (-self.grouped.amin(dim=0)).clamp_min(0)
        span = self.grouped.amax(dim=0) + lowest
        total, step, minimum = self.grouped.sum(dim=0), torch.zeros_like(span), lowest
        error = torch.full_like(span, torch.inf)
        for stretch in _STRETCHES:
            fitted = self._fit(self._codes(span / (self.top + stretch), lowest), total)
            tried = self._error(*fitted)
            better = tried < error
            step, minimum = torch.where(better, fitted[0], step), torch.where(better, fitted[1], minimum)
            error = torch.minimum(error, tried)
        return step, minimum

    def _fit(self, codes: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Least squares for step and minimum [n, G], the minimum at least 0; `codes` is written over."""
        count = len(codes)
        sums, squares = codes.sum(dim=0), codes.square().sum(dim=0)
        products = codes.mul_(self.grouped).sum(dim=0)
        step = (count * products - total * sums) * _inverse(count * squares - sums * sums)
        minimum = (step * sums - total) / count
        through_zero = products * _inverse(squares)
        return torch.where(minimum > 0, step, through_zero), minimum.clamp_min(0)

    def _around(self, d: Tensor, m: Tensor, scales: Tensor, mins: Tensor) -> _Lines:
        """The best of these scales and mins and their neighbours."""
        factor, base = d.float(), m.float()
        best = _Lines(d, m, scales, mins, self._error(factor * scales, base * mins))
        for up, over in _NEIGHBOURS:
            other, below = (scales + up).clamp(0, self.high), (mins + over).clamp(0, self.high)
            tried = self._error(factor * other, base * below)
            better = tried < best.error
            best = _Lines(
                d,
                m,
                torch.where(better, other, best.scales),
                torch.where(better, below, best.mins),
                torch.minimum(best.error, tried),
            )
        return best

    def _rounded(self, steps: Tensor, minima: Tensor, top: int) -> _Lines:
        d = _half_away(steps.amax(dim=1, keepdim=True) / top)
        m = _half_away(minima.amax(dim=1, keepdim=True) / top)
        scales = (steps * _inverse(d.float())).round().clamp(0, self.high)
        mins = (minima * _inverse(m.float())).round().clamp(0, self.high)
        return _Lines(d, m, scales, mins, self._error(d.float() * scales, m.float() * mins))

    def _fitted(self, best: _Lines) -> tuple[Tensor, Tensor]:
        """The factors [n, 1] that are nearest to blocks with their codes, scales and mins."""
        scales, mins = best.scales, best.mins
        whole = self._codes(best.d.float() * best.scales, best.m.float() * best.mins).mul_(scales)
        aa, ab = whole.square().sum(dim=(0, 2)), (whole.sum(dim=0) * mins).sum(dim=1)
        bb = len(self.grouped) * mins.square().sum(dim=1)
        ax, bx = (whole * self.grouped).sum(dim=(0, 2)), (self.grouped.sum(dim=0) * mins).sum(dim=1)
        determinant = _inverse(aa * bb - ab * ab)
        d, m = (ax * bb - bx * ab) * determinant, (ax * ab - bx * aa) * determinant
        return d.clamp_min(0)[:, None].half(), m.clamp_min(0)[:, None].half()

    def _codes(self, step: Tensor, minimum: Tensor) -> Tensor:
        """Codes for steps and minima [n, G], in a room that the next call writes over."""
        shifted = torch.add(self.grouped, minimum, out=self.room)
        return shifted.mul_(_inverse(step)).round_().clamp_(0, self.top)

    def _error(self, step: Tensor, minimum: Tensor) -> Tensor:
        values = self._codes(step, minimum).mul_(step).sub_(minimum)
        return values.sub_(self.grouped).square_().sum(dim=0)


def _rows(codes: Tensor) -> Tensor:
    """Codes [g, n, G] in the order of the weights, uint8 [n, block]."""
    return codes.permute(1, 2, 0).flatten(1).to(torch.uint8)


def _better(best: _Choice, other: _Choice) -> _Choice:
    """Of each block the one with the smaller error."""
    better = other.error.sum(dim=1, keepdim=True) < best.error.sum(dim=1, keepdim=True)
    return type(best)(*(torch.where(better, *pair) for pair in zip(other, best, strict=True)))


def _half_away(value: Tensor) -> Tensor:
    """The float16 next to `value`, away from zero: so that integers below the top reach what they should.

    Where float16 has few bits left, the nearest one may be half of what is asked for.
    """
    nearest = value.half()
    further = (nearest.view(torch.int16) + 1).view(torch.float16)
    return torch.where(nearest.float().abs() < value.abs(), further, nearest)


def _inverse(value: Tensor) -> Tensor:
    """1 / value, and 0 where that is not finite."""
    return value.reciprocal().nan_to_num(0, posinf=0, neginf=0)
