"""Finds the matrix that tensors of our own layout make, and reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from minicpm.checkpoint.layouts.settings import Settings
from minicpm.checkpoint.layouts.source import FLOATS, LayoutSource, Parts, Unfit, matrix

if TYPE_CHECKING:
    import torch

    from minicpm.ops.quant_tensor import QuantTensor

_BITS = (1, 2, 3, 4, 8)
_ZEROS = ("U8", *FLOATS)


@dataclass(frozen=True, slots=True)
class OwnSource(LayoutSource):
    """A `QuantTensor` as it was saved."""

    symmetric: bool
    title: ClassVar[str] = "minicpm"

    def held_bytes(self, itemsize: int) -> int:
        """As in the file."""
        return self.nbytes

    def read(self, dtype: torch.dtype) -> QuantTensor:
        """The matrix of this dtype."""
        from minicpm.checkpoint.layouts import own
        from minicpm.ops.quant_tensor import Scheme

        held = {part: self._read(part) for part in self.parts}
        return own.unpack(held, scheme=Scheme(self.bits, self.group, self.symmetric), dtype=dtype)


def find(module: str, parts: Parts, settings: Settings) -> dict[str, LayoutSource]:
    """The matrix by the name of its weight; Unfit where the tensors do not fit each other or the config."""
    said = settings.of(module)
    if said.bits not in _BITS or not isinstance(said.group, int) or said.symmetric is None:
        raise Unfit("config.json does not say its bits (1, 2, 3, 4 or 8), group and symmetric")
    outputs, groups = matrix(parts, "scales", FLOATS, (None, None)).shape
    inputs = groups * said.group
    matrix(parts, "codes", ("U8",), (outputs, -(-inputs * said.bits // 8)))
    beside = [part for part in ("zeros", "offsets") if part in parts]
    for part in beside:
        matrix(parts, part, _ZEROS if part == "zeros" else FLOATS, (outputs, groups))
    if len(beside) != (0 if said.symmetric else 1):
        wanted = "neither zeros nor offsets" if said.symmetric else "zeros or offsets"
        raise Unfit(f"its groups have {' and '.join(beside) or 'neither'}, where {wanted} are needed")
    name = f"{module}.weight"
    return {name: OwnSource(name, (outputs, inputs), said.bits, said.group, parts, said.symmetric)}
