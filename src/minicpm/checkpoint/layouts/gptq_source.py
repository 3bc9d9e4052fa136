"""Finds the GPTQ matrix that tensors make, and reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.layouts.settings import Settings
from minicpm.checkpoint.layouts.source import (
    FLOATS,
    INTEGERS,
    LayoutSource,
    Parts,
    Unfit,
    agree,
    group_of,
    matrix,
)
from minicpm.errors import MalformedFile, WeightMismatch

if TYPE_CHECKING:
    import torch

    from minicpm.ops.quant_tensor import Weight

_BITS = (2, 3, 4, 8)
_WORD = 32
_INDEX = ("I32", "I64")


@dataclass(frozen=True, slots=True)
class GptqSource(LayoutSource):
    """`settings` say what stored zeros lack and whether groups follow activations."""

    settings: Settings
    title: ClassVar[str] = "gptq"

    def held_bytes(self, itemsize: int) -> int:
        """With groups that follow activations a matrix may have to be decoded, which its index will tell."""
        outputs, inputs = self.shape
        if self.settings.ordered_by_activation:
            return outputs * inputs * itemsize
        zeros = 0 if self.settings.symmetric else outputs * inputs // self.group
        return self._codes_and_scales() + zeros

    def read(self, dtype: torch.dtype) -> Weight:
        """Raises MalformedFile for an index of groups that contradicts them."""
        from minicpm.checkpoint.layouts import gptq

        held = gptq.Gptq(
            self._read("qweight"),
            self._read("scales"),
            self._read_if_any("qzeros"),
            self._read_if_any("g_idx"),
        )
        settings = self.settings
        try:
            return gptq.unpack(
                held,
                bits=self.bits,
                missing=settings.missing,
                dtype=dtype,
                unequal=settings.ordered_by_activation,
            )
        except WeightMismatch as error:
            raise MalformedFile(
                f"{shown(self.name)} in {shown(str(self.file))} cannot be read: {error}. Its weights would "
                "be multiplied with scales that are not theirs. Fetch the checkpoint again, or another one."
            ) from error


def find(module: str, parts: Parts, settings: Settings) -> dict[str, LayoutSource]:
    """The matrix by the name of its weight; Unfit where the tensors do not fit each other."""
    parts = {end: info for end, info in parts.items() if 0 not in info.shape}
    scales = matrix(parts, "scales", FLOATS, (None, None))
    groups, outputs = scales.shape
    rows = matrix(parts, "qweight", INTEGERS, (None, outputs)).shape[0]
    bits = _bits(parts, groups, outputs, settings)
    if rows * _WORD % bits:
        raise Unfit(f"qweight has {rows} rows of words, which hold no whole number of codes of {bits} bits")
    inputs = rows * _WORD // bits
    _check_index(parts, inputs)
    group = group_of(inputs, groups, None if settings.mixed else settings.group)
    name = f"{module}.weight"
    return {name: GptqSource(name, (outputs, inputs), bits, group, parts, settings)}


def _bits(parts: Parts, groups: int, outputs: int, settings: Settings) -> int:
    """What the zeros take; without zeros, which a symmetric grid may leave out, what config.json says."""
    said = None if settings.mixed else settings.bits
    if "qzeros" not in parts:
        if not settings.symmetric or said is None:
            raise Unfit("qzeros is missing, and config.json does not say that the grid is symmetric")
        return said
    columns = matrix(parts, "qzeros", INTEGERS, (groups, None)).shape[1]
    bits, rest = divmod(columns * _WORD, outputs)
    if rest or bits not in _BITS:
        raise Unfit(f"qzeros of {columns} columns for {outputs} outputs are not of 2, 3, 4 or 8 bits")
    return agree("bits", bits, said)


def _check_index(parts: Parts, inputs: int) -> None:
    index = parts.get("g_idx")
    if index is not None and (index.dtype not in _INDEX or index.shape != (inputs,)):
        raise Unfit(f"g_idx is {index.dtype} {list(index.shape)}, where integers [{inputs}] are needed")
