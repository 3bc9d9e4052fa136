"""Rounds blocks to types with one scale: the scale follows from the extremes, then each weight is rounded.

Operations and their order are those of ggml's reference, so that the bytes are the same.
"""

import torch
from torch import Tensor

from minicpm.checkpoint.gguf.layouts import Layout, Parts


def round_blocks(layout: Layout, blocks: Tensor) -> Parts:
    """Blocks float32 [n, block] as Parts; `d` is infinite where float16 cannot hold the scale."""
    if layout.zero is None:
        return _between_extremes(layout, blocks)
    if layout.top == 255:
        return _around_zero(layout, blocks, blocks.abs().amax(dim=1, keepdim=True) / 127)
    if layout.top == 2:
        return _around_zero(layout, blocks, blocks.abs().amax(dim=1, keepdim=True))
    return _from_peak(layout, blocks)


def _between_extremes(layout: Layout, blocks: Tensor) -> Parts:
    """The least weight becomes code 0, the largest the top."""
    least = blocks.amin(dim=1, keepdim=True)
    d = (blocks.amax(dim=1, keepdim=True) - least) / layout.top
    codes = ((blocks - least) * _inverse(d) + 0.5).trunc().clamp(0, layout.top)
    return Parts(codes.to(torch.uint8), d.half(), least.half())


def _around_zero(layout: Layout, blocks: Tensor, d: Tensor) -> Parts:
    """Rounded to the nearest multiple of d, halves away from zero."""
    assert layout.zero is not None
    scaled = blocks * _inverse(d)
    size = scaled.abs()
    whole = size.floor()
    levels = scaled.sign() * (whole + (2 * (size - whole)).floor())
    return Parts((levels + layout.zero).to(torch.uint8), d.half())


def _from_peak(layout: Layout, blocks: Tensor) -> Parts:
    """The weight furthest from zero becomes code 0, the end that has no positive counterpart."""
    assert layout.zero is not None
    peak = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    d = peak / -layout.zero
    codes = (blocks * _inverse(d) + (layout.zero + 0.5)).trunc().clamp(0, layout.top)
    return Parts(codes.to(torch.uint8), d.half())


def _inverse(d: Tensor) -> Tensor:
    """1 / d, and 0 where that is not finite: all such weights are 0 in float16."""
    return d.reciprocal().nan_to_num(0, posinf=0, neginf=0)
