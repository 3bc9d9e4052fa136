"""Finds the AutoAWQ matrix that tensors make, and reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from minicpm.checkpoint.layouts.settings import Settings
from minicpm.checkpoint.layouts.source import FLOATS, INTEGERS, LayoutSource, Parts, agree, group_of, matrix

if TYPE_CHECKING:
    import torch

    from minicpm.ops.quant_tensor import QuantTensor

_BITS = 4
_PER_WORD = 8


@dataclass(frozen=True, slots=True)
class AwqSource(LayoutSource):
    """4 bits, with zeros."""

    title: ClassVar[str] = "awq"

    def held_bytes(self, itemsize: int) -> int:
        """Zeros take a byte each."""
        outputs, inputs = self.shape
        return self._codes_and_scales() + outputs * inputs // self.group

    def read(self, dtype: torch.dtype) -> QuantTensor:
        """The matrix of this dtype."""
        from minicpm.checkpoint.layouts import awq

        held = awq.Awq(self._read("qweight"), self._read("scales"), self._read("qzeros"))
        return awq.unpack(held, dtype=dtype)


def find(module: str, parts: Parts, settings: Settings) -> dict[str, LayoutSource]:
    """The matrix by the name of its weight; Unfit where the tensors do not fit each other."""
    groups, outputs = matrix(parts, "scales", FLOATS, (None, None)).shape
    words = outputs // _PER_WORD
    inputs = matrix(parts, "qweight", INTEGERS, (None, words)).shape[0]
    matrix(parts, "qzeros", INTEGERS, (groups, words))
    bits = agree("bits", _BITS, settings.bits)
    group = group_of(inputs, groups, settings.group)
    name = f"{module}.weight"
    return {name: AwqSource(name, (outputs, inputs), bits, group, parts)}
