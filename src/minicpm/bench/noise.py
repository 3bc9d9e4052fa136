"""Random numbers by the gigabyte, quickly: their values do not matter, only that they are sane."""

import torch
from torch import Tensor

_PIECE = 1 << 24
STD_OF_BYTES = 256 / 12**0.5
"""Of uniform signed bytes."""


def random_bytes(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform bytes, uint8 [count], drawn eight at a time."""
    words = torch.empty(-(-count // 8), dtype=torch.int64)
    return words.random_(-(2**63), None, generator=generator).view(torch.uint8)[:count]


def fill_uniform(target: Tensor, std: float, generator: torch.Generator | None = None) -> None:
    """Fill a contiguous floating tensor with numbers of mean zero and this deviation, of 256 values."""
    flat = target.detach().view(-1)
    for piece in torch.split(flat, _PIECE):
        piece.copy_(random_bytes(len(piece), generator).view(torch.int8))
        piece.add_(0.5).mul_(std / STD_OF_BYTES)


def fill_integers(target: Tensor, generator: torch.Generator | None = None) -> None:
    """Fill a contiguous tensor of bytes with all the values there are."""
    flat = target.detach().view(-1).view(torch.uint8)
    for piece in torch.split(flat, _PIECE):
        piece.copy_(random_bytes(len(piece), generator))


def random_codes(count: int, bits: int, generator: torch.Generator | None = None) -> Tensor:
    """Bytes of codes of 8, 4 or 2 bits, never 0, so that code - 2^(bits - 1) has mean zero.

    A mean, however small, would be an outlier in the direction that all outputs share. What was drawn as 0
    becomes the code that stands for zero.
    """
    drawn = random_bytes(count, generator)
    some, reach = drawn, 1
    while reach < bits:
        some, reach = some | (some >> reach), 2 * reach
    lowest = sum(1 << shift for shift in range(0, 8, bits))
    return drawn | ((~some & lowest) << (bits - 1))


def deviation_of_codes(bits: int) -> float:
    """The standard deviation of code - 2^(bits - 1) for such codes."""
    most = 2 ** (bits - 1) - 1
    return float((2 * sum(value**2 for value in range(1, most + 1)) / 2**bits) ** 0.5)
