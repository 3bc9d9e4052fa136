"""Rounds matrices to 8 bits per weight or fewer, symmetric, with one scale per group of columns.

Nothing is calibrated: each group of a row is rounded to the nearest codes by itself. Below 8 bits a few
scales are tried and the one with the least squared error is kept.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from minicpm.config.holding import group_of
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes

# What the largest weight of a group, with its sign, is divided by for a scale. Below 8 bits it then becomes
# the lowest code, which has no positive counterpart, or falls somewhat short of itself for the sake of all
# others. On normal and heavy-tailed weights the five of 4 bits give 0.953 times the root mean square error of
# -8 alone, and nine give 0.950; those of 3 and 2 bits are within 1 % of forty.
_DIVISORS = {
    8: (127.0,),
    4: (-8.0, -8.25, -8.5, -8.75, -9.0),
    3: (-4.0, -4.25, -4.5, -5.0, -5.5, -6.0),
    2: (-2.0, -2.25, -2.5, -2.75, -3.0, -3.5, -4.0),
}
# The largest of many weights is further from the others; these are tried besides in groups of more than that.
_WIDE, _WIDE_DIVISORS = 64, {8: (), 4: (-9.5, -10.0, -11.0, -12.0), 3: (-7.0, -8.0), 2: (-5.0, -6.0)}
# Weights rounded at a time, so that what is computed with them stays in a processor's own cache.
_SLICE = 1 << 18


def working_bytes() -> int:
    """Bytes that `round_to` takes for a moment beside matrix and result: a few slices per thread."""
    return torch.get_num_threads() * 6 * 4 * _SLICE


@torch.no_grad()
def round_to(weight: Tensor, bits: int, group: int | None = None) -> QuantTensor:
    """A finite matrix [O, I] in 8, 4, 3 or 2 bits per weight and groups of as many; scales are like weight.

    Without a group that of `group_of` is taken, which must know one. Beside the result it takes a few slices
    of memory.
    """
    rows, columns = weight.shape
    group = group or group_of(columns, bits)
    assert group is not None, f"{columns} columns are not rounded to {bits} bits"
    assert columns % group == 0, f"groups of {group} do not divide {columns} columns"
    codes = torch.empty(rows, -(-columns * bits // 8), dtype=torch.uint8, device=weight.device)
    scales = torch.empty(rows, columns // group, dtype=weight.dtype, device=weight.device)

    def fill(part: slice) -> None:
        grouped = weight[part].unflatten(1, (-1, group)).float()
        scale = best_scale(grouped, bits, weight.dtype)
        scales[part] = scale[..., 0].to(weight.dtype)
        codes[part] = pack_codes(_codes(grouped, scale, bits).flatten(1), bits)

    step = max(1, _SLICE // columns)
    with _threads() as pool:
        for _ in pool.map(fill, [slice(first, first + step) for first in range(0, rows, step)]):
            pass
    return QuantTensor(codes, scales, None, Scheme(bits=bits, group=group))


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has, each to compute by itself.

    Torch's own threads meet after every operator, of which a slice has fifty. Where another program takes one
    of their processors away, all wait for it each time: rounding took twenty times longer.
    """
    count = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(count)  # threads that are still to come take the number that was set last


def best_scale(grouped: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """The scale [n, G, 1] that each group [n, G, g] is nearest to itself with, as `dtype` has it.

    float32 in and out; the codes are those of a symmetric `Scheme`.
    """
    # Each by itself: aminmax is five times slower along a short axis.
    most, least = grouped.amax(dim=-1, keepdim=True), grouped.amin(dim=-1, keepdim=True)
    peak = torch.where(most >= -least, most, least)
    tried = [(peak / divisor).to(dtype).float() for divisor in _divisors(bits, grouped.shape[-1])]
    if len(tried) == 1:
        return tried[0]
    best, room = tried[0], torch.empty_like(grouped)
    error = _error(grouped, best, bits, room)
    for scale in tried[1:]:
        other = _error(grouped, scale, bits, room)
        best = torch.where(other < error, scale, best)
        error = torch.minimum(error, other)
    return best


def _divisors(bits: int, group: int) -> tuple[float, ...]:
    return _DIVISORS[bits] + (_WIDE_DIVISORS[bits] if group > _WIDE else ())


def _error(grouped: Tensor, scale: Tensor, bits: int, room: Tensor) -> Tensor:
    """Squared distance [n, G, 1] of groups from their rounded selves; `room` is written over."""
    return _rounded(grouped, scale, bits, room).mul_(scale).sub_(grouped).square_().sum(dim=-1, keepdim=True)


def _rounded(grouped: Tensor, scale: Tensor, bits: int, room: Tensor | None = None) -> Tensor:
    """What each weight is in scales, rounded, within what `bits` hold; zeros where the scale is zero."""
    inverse = scale.reciprocal().nan_to_num_(posinf=0, neginf=0)
    half = 2 ** (bits - 1)
    return torch.mul(grouped, inverse, out=room).round_().clamp_(-half, half - 1)


def _codes(grouped: Tensor, scale: Tensor, bits: int) -> Tensor:
    return _rounded(grouped, scale, bits).add_(2 ** (bits - 1)).to(torch.uint8)
