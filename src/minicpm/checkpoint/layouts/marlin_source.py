"""Finds the Marlin matrices that tensors make, several of them in one where CPM.cu has joined them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

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

if TYPE_CHECKING:
    import torch

    from minicpm.ops.quant_tensor import QuantTensor

_BITS, _TILE, _COLUMNS = 4, 16, 64
_JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_RENAMED = {"B": "qweight", "s": "scales"}


@dataclass(frozen=True, slots=True)
class MarlinSource(LayoutSource):
    """Outputs `first` on of what the tensors hold, `joint` of them together."""

    first: int
    joint: int
    title: ClassVar[str] = "marlin"

    @property
    def nbytes(self) -> int:
        """Its share of tensors that it has with others."""
        return sum(info.nbytes for info in self.parts.values()) * self.shape[0] // self.joint

    def held_bytes(self, itemsize: int) -> int:
        """As in the file."""
        return self.nbytes

    def read(self, dtype: torch.dtype) -> QuantTensor:
        """The matrix of this dtype."""
        from minicpm.checkpoint.layouts import marlin

        held = marlin.Marlin(self._read("qweight"), self._read("scales"))
        return marlin.unpack(held.outputs(self.first, self.first + self.shape[0]), dtype=dtype)


def find(module: str, parts: Parts, settings: Settings, raw: Mapping[str, Any]) -> dict[str, LayoutSource]:
    """The matrices by the names of their weights; Unfit where tensors fit each other or config not."""
    held = {_RENAMED.get(end, end): parts[end] for end in parts if end in ("qweight", "scales", *_RENAMED)}
    groups, joint = matrix(held, "scales", FLOATS, (None, None)).shape
    inputs = _TILE * matrix(held, "qweight", INTEGERS, (None, 2 * joint)).shape[0]
    bits = agree("bits", _BITS, settings.bits)
    group = group_of(inputs, groups, settings.group)
    above, _, own = module.rpartition(".")
    names = [".".join(filter(None, (above, name))) for name in _JOINED.get(own, (own,))]
    edges = [0, *accumulate(_sizes(own, joint, raw))]
    if edges[-1] != joint or any(edge % _COLUMNS for edge in edges):
        raise Unfit(
            f"its {joint} outputs are not {' + '.join(str(b - a) for a, b in pairwise(edges))} as "
            f"config.json says, in multiples of {_COLUMNS}"
        )
    return {
        f"{name}.weight": MarlinSource(
            f"{name}.weight", (last - first, inputs), bits, group, held, first, joint
        )
        for name, (first, last) in zip(names, pairwise(edges), strict=True)
    }


def _sizes(own: str, joint: int, raw: Mapping[str, Any]) -> Sequence[int]:
    """Outputs of each matrix that was joined."""
    if own == "gate_up_proj":
        return (joint // 2, joint - joint // 2)
    if own != "qkv_proj":
        return (joint,)
    heads = _whole(raw, "num_attention_heads", None)
    shared = _whole(raw, "num_key_value_heads", heads)
    width = _whole(raw, "head_dim", _whole(raw, "hidden_size", None) // heads)
    return (heads * width, shared * width, shared * width)


def _whole(raw: Mapping[str, Any], key: str, default: int | None) -> int:
    value = raw.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or value < 1:
        raise Unfit(f"its parts cannot be told apart, for config.json has no sound {key}")
    return value
