"""A matrix held in fewer bits: packed codes, their scales, and a scheme that says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["rows"]
"""How codes lie. "rows": those of one output along the input axis, in bytes, lowest bits first."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """`bits` per code (1, 2, 4 or 8), `group` consecutive weights of a row per scale, and the layout.

    Symmetric codes stand for code - 2^(bits - 1); others for code - zero, with one zero per group.
    """

    bits: int
    group: int
    symmetric: bool = True
    layout: Layout = "rows"

    def __post_init__(self) -> None:
        assert self.bits in (1, 2, 4, 8), f"{self.bits} bits do not fill bytes"
        assert self.group > 0, f"a group of {self.group} weights"


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """A matrix [O, I]: codes uint8 [O, ceil(I * bits / 8)], scales and zeros [O, I / group].

    The scales' dtype is that of the matrix it stands for; zeros are there when the scheme is not symmetric.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    scheme: Scheme

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the matrix."""
        return len(self.codes), self.scales.shape[1] * self.scheme.group

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix it stands for."""
        return self.scales.dtype

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self.codes, self.scales, self.zeros) if part is not None)

    def rows(self, first: int, last: int) -> QuantTensor:
        """Outputs `first` up to `last`, without a copy."""
        zeros = None if self.zeros is None else self.zeros[first:last]
        return replace(self, codes=self.codes[first:last], scales=self.scales[first:last], zeros=zeros)

    def to(self, device: torch.device) -> QuantTensor:
        """The same on a device."""
        zeros = None if self.zeros is None else self.zeros.to(device)
        return replace(self, codes=self.codes.to(device), scales=self.scales.to(device), zeros=zeros)


Weight = Tensor | QuantTensor


def joined(parts: Sequence[QuantTensor]) -> QuantTensor:
    """Matrices of the same inputs and scheme under each other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    assert all(part.scheme == first.scheme for part in parts), "one scheme per joined matrix"
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return QuantTensor(
        codes=torch.cat([part.codes for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=torch.cat(zeros) if zeros else None,
        scheme=first.scheme,
    )


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes [O, I], integers 0 .. 2^bits - 1, as bytes [O, ceil(I * bits / 8)], filled up with zeros."""
    per_byte = 8 // bits
    padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, -codes.shape[1] % per_byte))
    slots = padded.unflatten(1, (-1, per_byte))
    packed = slots[..., 0].clone()
    for slot in range(1, per_byte):
        packed |= slots[..., slot] << (slot * bits)
    return packed


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse: the first `count` codes of each row, uint8 [O, count]."""
    slots = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.stack(slots, dim=-1).flatten(1)[:, :count]


def decode(weight: QuantTensor) -> Tensor:
    """The matrix [O, I] in the scales' dtype: (code - zero) * scale, in float32 and rounded once."""
    scheme = weight.scheme
    codes = unpack_codes(weight.codes, scheme.bits, weight.shape[1])
    grouped = codes.unflatten(1, (-1, scheme.group)).float()
    zeros = 2 ** (scheme.bits - 1) if weight.zeros is None else weight.zeros.float()[..., None]
    return ((grouped - zeros) * weight.scales.float()[..., None]).to(weight.dtype).flatten(1)
