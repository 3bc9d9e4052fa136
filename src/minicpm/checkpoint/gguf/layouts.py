"""How a block of each quantized type lies in bytes, taken apart and put together.

Formulas and orders are those of ggml's reference (ggml-quants.c). n counts blocks throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

_TERNARY_RUNS = ((0, 32, 5), (32, 48, 5), (48, 52, 4))


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What blocks are made of: a weight is d * scale * (code - zero), or d * scale * code + minimum.

    codes uint8 [n, block] in the order of the weights; d and m float16 [n, 1]; scales and mins int16
    [n, groups], where a block has groups of its own. The minimum is m, or with mins -m * min.
    """

    codes: Tensor
    d: Tensor
    m: Tensor | None = None
    scales: Tensor | None = None
    mins: Tensor | None = None

    def steps(self) -> Tensor:
        """What a code is multiplied by [n, groups]: float16 as in the file, float32 where it is a product."""
        return self.d if self.scales is None else self.d.float() * self.scales.float()

    def minima(self) -> Tensor | None:
        """What is added then [n, groups], of the dtype of `steps`; None where codes have a zero."""
        if self.m is None or self.mins is None:
            return self.m
        return -(self.m.float() * self.mins.float())


@dataclass(frozen=True, slots=True)
class Layout:
    """A type with codes of 0 .. `top`, in groups of `group` weights; `zero` is the code that stands for 0.

    It is None where a code of 0 is the least weight. `unpack` makes Parts of blocks uint8 [n, nbytes], `pack`
    the blocks again. Where blocks have groups of their own, integer scales are within `scales`.
    """

    top: int
    group: int
    zero: int | None
    unpack: Callable[[Tensor], Parts]
    pack: Callable[[Parts], Tensor]
    scales: tuple[int, int] | None = None

    @property
    def largest(self) -> float:
        """No weight may be larger: what the largest float16, scale and code make."""
        scale = 1 if self.scales is None else max(map(abs, self.scales))
        return torch.finfo(torch.float16).max * scale * self.top


def split(data: Tensor, bits: int, run: int) -> Tensor:
    """Codes of `bits` from bytes [n, b]: the lowest bits of `run` bytes, then their next, and so on."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=data.device)[:, None]
    slots: Tensor = (data.reshape(len(data), -1, 1, run) >> shifts) & (2**bits - 1)
    return slots.flatten(1)


def join(codes: Tensor, bits: int, run: int) -> Tensor:
    """The inverse of `split`; bits above the lowest `bits` of a code are left out."""
    slots = (codes & (2**bits - 1)).reshape(len(codes), -1, 8 // bits, run)
    joined: Tensor = slots[:, :, 0].clone()
    for slot in range(1, 8 // bits):
        joined |= slots[:, :, slot] << (slot * bits)
    return joined.flatten(1)


def _halves(data: Tensor, first: int) -> Tensor:
    """The float16 at byte `first` of every block [n, 1]."""
    return data[:, first : first + 2].contiguous().view(torch.float16)


def _bytes(value: Tensor | None) -> Tensor:
    assert value is not None
    return value.contiguous().view(torch.uint8)


def _cat(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=1)


def _unpack_q8_0(data: Tensor) -> Parts:
    return Parts(data[:, 2:] ^ 0x80, _halves(data, 0))


def _pack_q8_0(parts: Parts) -> Tensor:
    return _cat(_bytes(parts.d), parts.codes ^ 0x80)


def _unpack_q4_0(data: Tensor) -> Parts:
    return Parts(split(data[:, 2:], 4, 16), _halves(data, 0))


def _pack_q4_0(parts: Parts) -> Tensor:
    return _cat(_bytes(parts.d), join(parts.codes, 4, 16))


def _unpack_q4_1(data: Tensor) -> Parts:
    return Parts(split(data[:, 4:], 4, 16), _halves(data, 0), _halves(data, 2))


def _pack_q4_1(parts: Parts) -> Tensor:
    return _cat(_bytes(parts.d), _bytes(parts.m), join(parts.codes, 4, 16))


def _fifth(high: Tensor, low: Tensor, run: int, low_run: int) -> Tensor:
    return split(low, 4, low_run) | (split(high, 1, run) << 4)


def _unpack_q5_0(data: Tensor) -> Parts:
    return Parts(_fifth(data[:, 2:6], data[:, 6:], 1, 16), _halves(data, 0))


def _pack_q5_0(parts: Parts) -> Tensor:
    return _cat(_bytes(parts.d), join(parts.codes >> 4, 1, 1), join(parts.codes, 4, 16))


def _unpack_q5_1(data: Tensor) -> Parts:
    return Parts(_fifth(data[:, 4:8], data[:, 8:], 1, 16), _halves(data, 0), _halves(data, 2))


def _pack_q5_1(parts: Parts) -> Tensor:
    high, low = join(parts.codes >> 4, 1, 1), join(parts.codes, 4, 16)
    return _cat(_bytes(parts.d), _bytes(parts.m), high, low)


def _unpack_q2_k(data: Tensor) -> Parts:
    scales = data[:, :16].to(torch.int16)
    codes = split(data[:, 16:80], 2, 32)
    return Parts(codes, _halves(data, 80), _halves(data, 82), scales & 15, scales >> 4)


def _pack_q2_k(parts: Parts) -> Tensor:
    assert parts.scales is not None
    assert parts.mins is not None
    scales = (parts.scales | parts.mins << 4).to(torch.uint8)
    return _cat(scales, join(parts.codes, 2, 32), _bytes(parts.d), _bytes(parts.m))


def _unpack_q3_k(data: Tensor) -> Parts:
    codes = split(data[:, 32:96], 2, 32) | (split(data[:, :32], 1, 32) << 2)
    scales = split(data[:, 96:104], 4, 8) | (split(data[:, 104:108], 2, 4) << 4)
    return Parts(codes, _halves(data, 108), scales=scales.to(torch.int16) - 32)


def _pack_q3_k(parts: Parts) -> Tensor:
    assert parts.scales is not None
    scales = (parts.scales + 32).to(torch.uint8)
    packed = join(scales, 4, 8), join(scales >> 4, 2, 4)
    return _cat(join(parts.codes >> 2, 1, 32), join(parts.codes, 2, 32), *packed, _bytes(parts.d))


def _split_scales(data: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight mins of 6 bits from 12 bytes; the upper two bits of the last four lie apart."""
    scales, mins, rest = data[:, :4], data[:, 4:8], data[:, 8:]
    return (
        _cat(scales & 63, (rest & 15) | (scales >> 2 & 48)).to(torch.int16),
        _cat(mins & 63, (rest >> 4) | (mins >> 2 & 48)).to(torch.int16),
    )


def _join_scales(parts: Parts) -> Tensor:
    assert parts.scales is not None
    assert parts.mins is not None
    scales, mins = parts.scales.to(torch.uint8), parts.mins.to(torch.uint8)
    return _cat(
        scales[:, :4] | (scales[:, 4:] >> 4 << 6),
        mins[:, :4] | (mins[:, 4:] >> 4 << 6),
        (scales[:, 4:] & 15) | (mins[:, 4:] << 4),
    )


def _unpack_q4_k(data: Tensor) -> Parts:
    scales, mins = _split_scales(data[:, 4:16])
    return Parts(split(data[:, 16:], 4, 32), _halves(data, 0), _halves(data, 2), scales, mins)


def _pack_q4_k(parts: Parts) -> Tensor:
    return _cat(_bytes(parts.d), _bytes(parts.m), _join_scales(parts), join(parts.codes, 4, 32))


def _unpack_q5_k(data: Tensor) -> Parts:
    scales, mins = _split_scales(data[:, 4:16])
    codes = _fifth(data[:, 16:48], data[:, 48:], 32, 32)
    return Parts(codes, _halves(data, 0), _halves(data, 2), scales, mins)


def _pack_q5_k(parts: Parts) -> Tensor:
    high, low = join(parts.codes >> 4, 1, 32), join(parts.codes, 4, 32)
    return _cat(_bytes(parts.d), _bytes(parts.m), _join_scales(parts), high, low)


def _unpack_q6_k(data: Tensor) -> Parts:
    codes = split(data[:, :128], 4, 64) | (split(data[:, 128:192], 2, 32) << 4)
    scales = data[:, 192:208].contiguous().view(torch.int8).to(torch.int16)
    return Parts(codes, _halves(data, 208), scales=scales)


def _pack_q6_k(parts: Parts) -> Tensor:
    assert parts.scales is not None
    low, high = join(parts.codes, 4, 64), join(parts.codes >> 4, 2, 32)
    return _cat(low, high, _bytes(parts.scales.to(torch.int8)), _bytes(parts.d))


def _unpack_tq1_0(data: Tensor) -> Parts:
    """A byte is a fraction of 256 in base 3: its next digit is the integer part of three times it."""
    codes = []
    for first, last, digits in _TERNARY_RUNS:
        powers = torch.tensor([3**place for place in range(digits)], dtype=torch.uint8, device=data.device)
        shifted = data[:, None, first:last] * powers[:, None]
        codes.append((shifted.to(torch.int16) * 3 >> 8).to(torch.uint8).flatten(1))
    return Parts(_cat(*codes), _halves(data, 52))


def _pack_tq1_0(parts: Parts) -> Tensor:
    packed, start = [], 0
    for first, last, digits in _TERNARY_RUNS:
        end = start + (last - first) * digits
        powers = torch.tensor([3 ** (4 - place) for place in range(digits)], device=parts.codes.device)
        digit = parts.codes[:, start:end].reshape(len(parts.codes), digits, -1)
        number = (digit.int() * powers[:, None]).sum(dim=1)
        packed.append(((number * 256 + 242) // 243).to(torch.uint8))
        start = end
    return _cat(*packed, _bytes(parts.d))


def _unpack_tq2_0(data: Tensor) -> Parts:
    return Parts(split(data[:, :64], 2, 32), _halves(data, 64))


def _pack_tq2_0(parts: Parts) -> Tensor:
    return _cat(join(parts.codes, 2, 32), _bytes(parts.d))


LAYOUTS: Mapping[str, Layout] = MappingProxyType({
    "Q8_0": Layout(255, 32, 128, _unpack_q8_0, _pack_q8_0),
    "Q4_0": Layout(15, 32, 8, _unpack_q4_0, _pack_q4_0),
    "Q4_1": Layout(15, 32, None, _unpack_q4_1, _pack_q4_1),
    "Q5_0": Layout(31, 32, 16, _unpack_q5_0, _pack_q5_0),
    "Q5_1": Layout(31, 32, None, _unpack_q5_1, _pack_q5_1),
    "Q2_K": Layout(3, 16, None, _unpack_q2_k, _pack_q2_k, (0, 15)),
    "Q3_K": Layout(7, 16, 4, _unpack_q3_k, _pack_q3_k, (-32, 31)),
    "Q4_K": Layout(15, 32, None, _unpack_q4_k, _pack_q4_k, (0, 63)),
    "Q5_K": Layout(31, 32, None, _unpack_q5_k, _pack_q5_k, (0, 63)),
    "Q6_K": Layout(63, 16, 32, _unpack_q6_k, _pack_q6_k, (-128, 127)),
    "TQ1_0": Layout(2, 256, 1, _unpack_tq1_0, _pack_tq1_0),
    "TQ2_0": Layout(2, 256, 1, _unpack_tq2_0, _pack_tq2_0),
})  # fmt: skip
"""By the name of the type. Files may hold a code of 3 in TQ2_0, which stands for 2."""
