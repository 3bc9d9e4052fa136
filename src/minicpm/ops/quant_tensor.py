"""A matrix held in fewer bits: packed codes, their scales, and a scheme that says what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["rows"]
"""How codes lie. "rows": those of one output along the input axis, in bytes, lowest bits first."""
_BITS = (1, 2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class Scheme:
    """`bits` per code (1, 2, 3, 4 or 8), `group` consecutive weights of a row per scale, and the layout.

    Symmetric codes stand for code - 2^(bits - 1); others have a zero or an offset per group.
    """

    bits: int
    group: int
    symmetric: bool = True
    layout: Layout = "rows"

    def __post_init__(self) -> None:
        assert self.bits in _BITS, f"codes of {self.bits} bits are not packed"
        assert self.group > 0, f"a group of {self.group} weights"


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """A matrix [O, I]: codes uint8 [O, ceil(I * bits / 8)] and, per group, scales and more [O, I / group].

    A weight is (code - zero) * scale with `zeros`, code * scale + offset with `offsets`, and
    (code - 2^(bits - 1)) * scale when the scheme is symmetric and there are neither. It is of the dtype
    `result`, that of the scales unless said.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    scheme: Scheme
    offsets: Tensor | None = None
    result: torch.dtype | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the matrix."""
        return len(self.codes), self.scales.shape[1] * self.scheme.group

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix it stands for."""
        return self.result or self.scales.dtype

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        parts = (self.codes, self.scales, self.zeros, self.offsets)
        return sum(part.nbytes for part in parts if part is not None)

    def each(self, change: Callable[[Tensor], Tensor]) -> QuantTensor:
        """The matrix whose codes, scales, zeros and offsets are what `change` makes of these."""
        zeros = None if self.zeros is None else change(self.zeros)
        offsets = None if self.offsets is None else change(self.offsets)
        return replace(
            self, codes=change(self.codes), scales=change(self.scales), zeros=zeros, offsets=offsets
        )

    def rows(self, first: int, last: int) -> QuantTensor:
        """Outputs `first` up to `last`, without a copy."""
        return self.each(lambda part: part[first:last])

    def to(self, device: torch.device) -> QuantTensor:
        """The same on a device."""
        return self.each(lambda part: part.to(device))


Weight = Tensor | QuantTensor


def joined(parts: Sequence[QuantTensor]) -> QuantTensor:
    """Matrices of the same inputs and dtype under each other, as one of a scheme that holds all exactly."""
    if len(parts) == 1:
        return parts[0]
    parts = _alike(parts)
    first, zeros, offsets = parts[0], _all_of([p.zeros for p in parts]), _all_of([p.offsets for p in parts])
    return replace(
        first,
        codes=torch.cat([part.codes for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=torch.cat(zeros) if zeros else None,
        offsets=torch.cat(offsets) if offsets else None,
    )


def can_join(parts: Sequence[QuantTensor]) -> bool:
    """Whether one scheme holds them all exactly."""
    kinds = {(part.shape[1], part.dtype, part.scales.dtype, part.offsets is None) for part in parts}
    return len(kinds) == 1


def _all_of(found: Sequence[Tensor | None]) -> list[Tensor]:
    return [part for part in found if part is not None]


def _alike(parts: Sequence[QuantTensor]) -> list[QuantTensor]:
    """The same matrices with the widest codes and in the largest groups that suit all."""
    if len({part.scheme for part in parts}) == 1:
        return list(parts)
    assert can_join(parts), "matrices of different kinds are not joined"
    scheme = Scheme(
        bits=max(part.scheme.bits for part in parts),
        group=gcd(*(part.scheme.group for part in parts)),
        symmetric=all(part.scheme.symmetric for part in parts),
    )
    return [_as(part, scheme) for part in parts]


def _as(weight: QuantTensor, scheme: Scheme) -> QuantTensor:
    old = weight.scheme
    codes = unpack_codes(weight.codes, old.bits, weight.shape[1])
    zeros = weight.zeros
    if scheme.symmetric:
        codes = codes + (2 ** (scheme.bits - 1) - 2 ** (old.bits - 1))
    elif old.symmetric:
        zeros = torch.full_like(weight.scales, 2 ** (old.bits - 1))
    times = old.group // scheme.group

    def spread(part: Tensor | None) -> Tensor | None:
        return part if part is None or times == 1 else part.repeat_interleave(times, dim=1)

    scales = weight.scales if times == 1 else weight.scales.repeat_interleave(times, dim=1)
    return QuantTensor(
        pack_codes(codes, scheme.bits), scales, spread(zeros), scheme, spread(weight.offsets), weight.result
    )


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes [O, I], integers 0 .. 2^bits - 1, as bytes [O, ceil(I * bits / 8)], filled up with zeros."""
    if 8 % bits:
        return _pack_across(codes, bits)
    per_byte = 8 // bits
    padded = torch.nn.functional.pad(codes.to(torch.uint8), (0, -codes.shape[1] % per_byte))
    slots = padded.unflatten(1, (-1, per_byte))
    packed = slots[..., 0].clone()
    for slot in range(1, per_byte):
        packed |= slots[..., slot] << (slot * bits)
    return packed


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse: the first `count` codes of each row, uint8 [O, count]."""
    if 8 % bits:
        return _unpack_across(packed, bits, count)
    slots = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.stack(slots, dim=-1).flatten(1)[:, :count]


def _pack_across(codes: Tensor, bits: int) -> Tensor:
    """Eight codes at a time fill `bits` bytes."""
    padded = torch.nn.functional.pad(codes.to(torch.int32), (0, -codes.shape[1] % 8)).unflatten(1, (-1, 8))
    word = sum(padded[..., slot] << (slot * bits) for slot in range(8))
    packed = torch.stack([(word >> shift) & 255 for shift in range(0, 8 * bits, 8)], dim=-1)
    return packed.to(torch.uint8).flatten(1)[:, : -(-codes.shape[1] * bits // 8)].contiguous()


def _unpack_across(packed: Tensor, bits: int, count: int) -> Tensor:
    padded = torch.nn.functional.pad(packed.to(torch.int32), (0, -packed.shape[1] % bits))
    parts = padded.unflatten(1, (-1, bits))
    word = sum(parts[..., byte] << (8 * byte) for byte in range(bits))
    slots = [(word >> (slot * bits)) & (2**bits - 1) for slot in range(8)]
    return torch.stack(slots, dim=-1).to(torch.uint8).flatten(1)[:, :count]


def plain(weight: Weight) -> Tensor:
    """The matrix [O, I] itself, decoded where it is held in codes."""
    return weight if isinstance(weight, Tensor) else decode(weight)


def decode(weight: QuantTensor) -> Tensor:
    """The matrix [O, I], computed in float32 and rounded once."""
    scheme = weight.scheme
    codes = unpack_codes(weight.codes, scheme.bits, weight.shape[1])
    grouped, scales = codes.unflatten(1, (-1, scheme.group)).float(), weight.scales.float()[..., None]
    if weight.offsets is not None:
        values = grouped * scales + weight.offsets.float()[..., None]
    else:
        zeros = 2 ** (scheme.bits - 1) if weight.zeros is None else weight.zeros.float()[..., None]
        values = (grouped - zeros) * scales
    return values.to(weight.dtype).flatten(1)
