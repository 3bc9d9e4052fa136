"""Takes over the codes and scales of a packed matrix as parts of blocks, where their grid is the same."""

from math import gcd

import torch
from torch import Tensor

from minicpm.checkpoint.gguf.layouts import Layout, Parts
from minicpm.ops.quant_tensor import QuantTensor, unpack_codes


def repack(layout: Layout, block: int, weight: QuantTensor) -> Parts | None:
    """The blocks of a type with one scale per block; None where the matrix is not exactly that."""
    group, columns = weight.scheme.group, weight.shape[1]
    run = gcd(group, block)
    codes = unpack_codes(weight.codes, weight.scheme.bits, columns).reshape(-1, block // run, run).float()

    def spread(part: Tensor) -> Tensor:
        """Of each run of a block [n, block / run]."""
        return part.float().repeat_interleave(group // run, dim=1).view(len(codes), -1)

    steps = spread(weight.scales)
    middle = torch.full_like(steps, 2 ** (weight.scheme.bits - 1))
    zeros = middle if weight.zeros is None else spread(weight.zeros)
    if layout.zero is None:
        minima = -zeros * steps if weight.offsets is None else spread(weight.offsets)
        return _with_minimum(layout, codes, steps, minima)
    return None if weight.offsets is not None else _with_zero(layout, codes - zeros[..., None], steps)


def _with_zero(layout: Layout, levels: Tensor, steps: Tensor) -> Parts | None:
    """Runs of zeros do with any scale."""
    assert layout.zero is not None
    used = (levels != 0).any(dim=2)
    least, most = (torch.where(used, steps, end) for end in (torch.inf, -torch.inf))
    shared = torch.where(used.any(dim=1), least.amin(dim=1), steps[:, 0])
    if (most.amax(dim=1) > shared).any():
        return None
    codes, d = _codes(layout, levels + layout.zero), _halves(shared)
    return None if codes is None or d is None else Parts(codes, d)


def _with_minimum(layout: Layout, codes: Tensor, steps: Tensor, minima: Tensor) -> Parts | None:
    if (steps != steps[:, :1]).any() or (minima != minima[:, :1]).any():
        return None
    whole, d, m = _codes(layout, codes), _halves(steps[:, 0]), _halves(minima[:, 0])
    return None if whole is None or d is None or m is None else Parts(whole, d, m)


def _codes(layout: Layout, codes: Tensor) -> Tensor | None:
    """Codes [n, block], if all are of the type's."""
    whole = codes.round().clamp(0, layout.top)
    return whole.flatten(1).to(torch.uint8) if torch.equal(whole, codes) else None


def _halves(values: Tensor) -> Tensor | None:
    """Factors [n] as float16 [n, 1], if all are exactly that."""
    halves = values.half()
    return halves[:, None] if torch.equal(halves.float(), values) and halves.isfinite().all() else None
