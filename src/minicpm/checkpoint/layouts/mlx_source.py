"""Finds the MLX matrix that tensors make, and reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from minicpm.checkpoint.layouts.settings import Settings
from minicpm.checkpoint.layouts.source import FLOATS, LayoutSource, Parts, Unfit, agree, matrix

if TYPE_CHECKING:
    import torch

    from minicpm.ops.quant_tensor import Weight

_HELD, _BITS = (2, 3, 4, 8), (2, 3, 4, 5, 6, 8)
_WORD = 32


@dataclass(frozen=True, slots=True)
class MlxSource(LayoutSource):
    """Codes with an offset per group, which the native kernels do not know: each product decodes them."""

    title: ClassVar[str] = "mlx"

    def held_bytes(self, itemsize: int) -> int:
        """As in the file, or plain for bits that are decoded."""
        outputs, inputs = self.shape
        return self.nbytes if self.bits in _HELD else outputs * inputs * itemsize

    def read(self, dtype: torch.dtype) -> Weight:
        """The matrix of this dtype, decoded if it has 5 or 6 bits."""
        from minicpm.checkpoint.layouts import mlx

        held = mlx.Mlx(self._read("weight"), self._read("scales"), self._read("biases"))
        return mlx.unpack(held, bits=self.bits, group=self.group, dtype=dtype)


def find(module: str, parts: Parts, settings: Settings) -> dict[str, LayoutSource]:
    """The matrix by the name of its weight; Unfit where the tensors do not fit each other or the config."""
    said = settings.of(module)
    if not isinstance(said.group, int):
        raise Unfit("config.json does not say its group_size")
    outputs, words = matrix(parts, "weight", ("U32",), (None, None)).shape
    scales = matrix(parts, "scales", FLOATS, (outputs, None))
    matrix(parts, "biases", (scales.dtype,), (outputs, scales.shape[1]))
    inputs = scales.shape[1] * said.group
    bits, rest = divmod(words * _WORD, inputs)
    if rest or bits not in _BITS:
        raise Unfit(
            f"weight has {words} words for {inputs} inputs (groups of {said.group}), which is not 2, 3, 4, "
            "5, 6 or 8 bits each"
        )
    agree("bits", bits, said.bits)
    name = f"{module}.weight"
    return {name: MlxSource(name, (outputs, inputs), bits, said.group, parts)}
