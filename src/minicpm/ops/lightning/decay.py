"""How fast each head forgets, and its powers."""

from functools import cache

import torch
from torch import Tensor


def alibi_slopes(heads: int, device: torch.device | None = None) -> Tensor:
    """The decay rate of each head, float32 [H]; a head keeps exp(-slope) of its state per token.

    The ALiBi series 2^(-8 (h + 1) / H) (arXiv 2108.12409, section 3). Where H is not a power of two: the
    series of the power below it, then every second slope of the power above it.
    """
    return torch.tensor(_slopes(heads), dtype=torch.float32, device=device)


@cache
def _slopes(heads: int) -> list[float]:
    below = 1 << (heads.bit_length() - 1)
    return _series(below) + _series(2 * below)[::2][: heads - below]


def _series(heads: int) -> list[float]:
    return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]


def decay_powers(slopes: Tensor, most: int) -> Tensor:
    """lambda^0 .. lambda^most of every head, lambda = exp(-slope); float32 [H, most + 1]."""
    steps = torch.arange(most + 1, device=slopes.device)
    return torch.exp(-slopes[:, None] * steps)


def causal_decay(powers: Tensor, count: int) -> Tensor:
    """D[a, b] = lambda^(a - b) where b <= a, else 0; float32 [H, count, count].

    Looked up by difference: the factors lambda^a and lambda^-b of a fast head leave float32 within a chunk.
    """
    at = torch.arange(count, device=powers.device)
    return powers[:, (at[:, None] - at).clamp_min(0)].tril()
