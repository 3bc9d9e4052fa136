"""A matrix that several tensors of a safetensors checkpoint make together, without torch until it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.layouts.settings import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from minicpm.ops.quant_tensor import Weight

Parts = Mapping[str, TensorInfo]
"""The tensors of one module by the last word of their names."""
INTEGERS, FLOATS = ("I32", "U32"), ("F16", "BF16", "F32")


class Unfit(Exception):
    """Why tensors make no matrix; becomes part of a MalformedFile."""


@dataclass(frozen=True, slots=True)
class LayoutSource:
    """A `PackedSource` of one layout: `bits` per code, `group` inputs per scale."""

    name: str
    shape: tuple[int, int]
    bits: int
    group: int
    parts: Parts
    title: ClassVar[str]

    @property
    def format(self) -> str:
        """Layout, bits and groups in words."""
        groups = "whole rows" if self.group == self.shape[1] else f"groups of {self.group}"
        return f"{self.title} {self.bits} bits, {groups}"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.parts.values())

    @property
    def file(self) -> Path:
        """The file of the first tensor."""
        return self._first.file

    @property
    def offset(self) -> int:
        """Where the first tensor begins."""
        return self._first.offset

    @property
    def _first(self) -> TensorInfo:
        return min(self.parts.values(), key=lambda info: (info.file.name, info.offset))

    def held_bytes(self, itemsize: int) -> int:
        """Bytes in memory once read for a model of a dtype of so many bytes."""
        raise NotImplementedError

    def read(self, dtype: torch.dtype) -> Weight:
        """The matrix of this dtype, packed where a `QuantTensor` holds it."""
        raise NotImplementedError

    def _codes_and_scales(self) -> int:
        outputs, inputs = self.shape
        return outputs * -(-inputs * self.bits // 8) + self.parts["scales"].nbytes

    def _read(self, part: str) -> Tensor:
        from minicpm.checkpoint.reading import read_tensor

        return read_tensor(self.parts[part])

    def _read_if_any(self, part: str) -> Tensor | None:
        return self._read(part) if part in self.parts else None


def matrix(
    parts: Parts, end: str, dtypes: tuple[str, ...], shape: tuple[int | None, int | None]
) -> TensorInfo:
    """The tensor of that last word; Unfit unless it is there, of one of the dtypes and of this shape."""
    info = parts.get(end)
    if info is None:
        raise Unfit(f"{end} is missing")
    if info.dtype not in dtypes:
        raise Unfit(f"{end} is {info.dtype}, where one of {', '.join(dtypes)} is needed")
    if len(info.shape) != 2 or 0 in info.shape:
        raise Unfit(f"{end} is {list(info.shape)}, which is no matrix")
    wanted = [own if asked is None else asked for own, asked in zip(info.shape, shape, strict=True)]
    if list(info.shape) != wanted:
        raise Unfit(f"{end} is {list(info.shape)}, where {wanted} is needed")
    return info


def group_of(inputs: int, groups: int, said: Group | None) -> int:
    """Inputs per scale; Unfit when groups are not equal, or not those that config.json says."""
    if isinstance(said, int) and inputs % said and groups != 1:
        raise Unfit(
            f"its {inputs} inputs are no multiple of the group of {said}, and groups of different sizes are "
            "not read: quantize it anew in groups that divide them, or in whole rows"
        )
    if inputs % groups:
        raise Unfit(f"{groups} groups of {inputs} inputs are not of one size")
    expected = 1 if said == "row" or (said is not None and said >= inputs) else said and inputs // said
    if expected is not None and groups != expected:
        raise Unfit(f"its {inputs} inputs have {groups} groups, and config.json says {expected} ({said})")
    return inputs // groups


def agree(what: str, found: int, said: int | None) -> int:
    """`found`, unless config.json says another number."""
    if said is not None and found != said:
        raise Unfit(f"its tensors are of {found} {what}, and config.json says {said}")
    return found
