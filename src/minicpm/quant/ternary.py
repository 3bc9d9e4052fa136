"""Matrices whose groups of weights along the input axis take only the values -s, 0 and s.

BitCPM4 is published so, as ordinary bfloat16 tensors. The size of its groups is not, and is found here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minicpm.errors import NotTernary
from minicpm.ops.quant_tensor import QuantTensor, Scheme, decode, pack_codes

Group = int | Literal["row"]
"""How many consecutive weights of a row share a scale: a power of two, or all of them."""

SMALLEST_GROUP = 32
_EPS = 1e-8


@dataclass(frozen=True, slots=True)
class Fit:
    """Which groups make a matrix ternary, largest first; if none, how far it is from it in the smallest.

    `broken` is the share of groups with more than one non-zero magnitude, `deviation` the largest distance of
    a weight from {-s, 0, s} as a share of its group's s = max|w|.
    """

    groups: tuple[Group, ...]
    smallest: Group
    broken: float = 0.0
    deviation: float = 0.0


def ternarise(weight: Tensor, group: Group) -> Tensor:
    """clamp(round(W / s), -1, 1) * s with s = max(mean|W|, eps) of each group (BitCPM-CANN, eq. 1 to 3).

    weight [O, I], with I a multiple of the group; float32 inside, result like weight.
    """
    grouped = _grouped(weight.float(), group)
    scale = grouped.abs().mean(dim=-1, keepdim=True).clamp_min(_EPS)
    return ((grouped / scale).round().clamp(-1, 1) * scale).flatten(1).to(weight.dtype)


def measure(weight: Tensor) -> Fit:
    """How ternary a matrix [O, I] is, exactly: a group fits when it has at most one non-zero magnitude."""
    sizes = _candidates(weight.shape[1])
    magnitudes = _grouped(weight.abs(), sizes[-1])
    most = magnitudes.amax(dim=-1)
    least = magnitudes.masked_fill(magnitudes == 0, torch.inf).amin(dim=-1)
    finite = bool(most.isfinite().all())
    fits = tuple(group for group in sizes if finite and _fits(most, least, _times(group, sizes[-1])))
    if fits:
        return Fit(fits, sizes[-1])
    distance = torch.minimum(magnitudes, most[..., None] - magnitudes).float()
    deviation = (distance.amax(dim=-1) / most.float()).nan_to_num(0, posinf=0).max()
    return Fit((), sizes[-1], (least < most).float().mean().item(), deviation.item())


def common_group(fits: Mapping[str, Fit]) -> Group:
    """The largest group that fits all matrices; NotTernary, naming the worst of them, when there is none."""
    refused = {name: fit for name, fit in fits.items() if not fit.groups}
    if refused:
        raise NotTernary(_message(refused, len(fits)))
    for group in _descending({group for fit in fits.values() for group in fit.groups}):
        if all(group in fit.groups for fit in fits.values()):
            return group
    raise NotTernary(
        "The matrices are ternary in groups of different sizes, and no one size fits all of them. They are "
        "not packed: load them as they are."
    )


def pack(weight: Tensor, group: Group) -> QuantTensor:
    """A matrix [O, I] of which `group` fits, in 2 bits per weight and one scale s = max|W| per group.

    It decodes to the same numbers; a negative zero becomes zero. s is not the quantiser's mean|W| again,
    which zeros would make smaller.
    """
    grouped = _grouped(weight, group)
    size = grouped.shape[-1]
    codes = pack_codes((grouped.sign().to(torch.int8) + 2).flatten(1), bits=2)
    packed = QuantTensor(codes, grouped.abs().amax(dim=-1), None, Scheme(bits=2, group=size))
    assert torch.equal(decode(packed), weight), f"groups of {size} do not fit"
    return packed


def packed_bytes(shape: Sequence[int], group: Group, dtype: torch.dtype) -> int:
    """Bytes of a packed matrix [O, I] whose scales are of this dtype."""
    rows, columns = shape
    scales = 1 if group == "row" else columns // group
    return rows * (-(-columns // 4) + scales * dtype.itemsize)


def _grouped(weight: Tensor, group: Group) -> Tensor:
    return weight.reshape(len(weight), *((1, -1) if group == "row" else (-1, group)))


def _candidates(width: int) -> list[Group]:
    """Whole rows, then the powers of two that divide them, largest first."""
    powers = [2**n for n in range(width.bit_length()) if 2**n >= SMALLEST_GROUP and width % 2**n == 0]
    return ["row", *reversed(powers)]


def _times(group: Group, smallest: Group) -> int:
    """How many of the smallest groups make one of these; -1 for all of a row."""
    return -1 if group == "row" or smallest == "row" else group // smallest


def _fits(most: Tensor, least: Tensor, times: int) -> bool:
    """True when groups of `times` smallest ones have one magnitude each, or none."""
    shape = (len(most), *((1, -1) if times < 0 else (-1, times)))
    return bool((least.reshape(shape).amin(-1) >= most.reshape(shape).amax(-1)).all())


def _descending(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: -torch.inf if group == "row" else -group)


def _message(refused: Mapping[str, Fit], count: int) -> str:
    worst = max(refused, key=lambda name: (refused[name].broken, refused[name].deviation))
    fit = refused[worst]
    groups = "rows" if fit.smallest == "row" else f"groups of {fit.smallest} weights"
    return (
        f"{len(refused)} of {count} matrices are not ternary. The worst is {worst}: {fit.broken:.1%} of its "
        f"{groups} hold more than one magnitude, and a weight lies {fit.deviation:.1%} of its group's s away "
        "from -s, 0 and s. Packing would change what the model computes, so it is refused. Pack checkpoints "
        "that were trained with ternary weights, such as BitCPM4."
    )
