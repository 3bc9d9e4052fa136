"""Turns the projections of a loaded model into packed ones that give the same numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import nn

from minicpm.errors import BadParameter
from minicpm.layers.native_linear import NativeLinear
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.backend import Backend
from minicpm.ops.quant_tensor import QuantTensor
from minicpm.quant.ternary import Fit, Group, common_group, measure, pack, packed_bytes

# Routers choose experts and the head chooses tokens; both are published at full precision, as embeddings are.
_KEPT = ("lm_head", "gate")


class Packable(Protocol):
    """What packing asks of a model, as a decoder is."""

    backend: Backend
    prepared: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """As of a torch module."""
        ...

    def get_submodule(self, target: str) -> nn.Module:
        """As of a torch module."""
        ...

    def prepare(self, backend: str) -> None:
        """Fuse projections for inference."""
        ...


@dataclass(frozen=True, slots=True)
class Packing:
    """What was packed: how many weights, in which groups, in how many bytes that were how many before."""

    group: Group
    weights: int
    nbytes: int
    nbytes_before: int

    @property
    def bits_per_weight(self) -> float:
        """Scales included."""
        return 8 * self.nbytes / self.weights


def projections(model: Packable) -> dict[str, nn.Linear | NativeLinear]:
    """The linear modules that a ternary model holds ternary, by name: all but the head and routers."""
    return {
        name: module
        for name, module in model.named_modules()
        if _is_plain(module) and name.rpartition(".")[2] not in _KEPT
    }


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, NativeLinear):
        return module.matrix.bits == 16
    return isinstance(module, nn.Linear)


@torch.no_grad()
def pack_ternary(model: Packable) -> Packing:
    """Hold every projection of a ternary model in about two bits per weight; inference only from here on.

    Logits keep every bit. The model stays prepared if it is. Raises NotTernary, and changes nothing, when a
    projection is not ternary, and BadParameter when the model has adapters.
    """
    parts = projections(model)
    _refuse_adapters(parts)
    shapes = {name: part.weight.shape for name, part in parts.items()}
    fits = {name: measure(part.weight) for name, part in parts.items()}
    packing = packing_of(shapes, fits, model.dtype)
    for name in list(parts):
        hold_packed(model, name, pack(parts.pop(name).weight, packing.group))
    if model.prepared:
        model.prepare(model.backend.name)
    return packing


def packing_of(shapes: Mapping[str, Sequence[int]], fits: Mapping[str, Fit], dtype: torch.dtype) -> Packing:
    """How projections of these shapes and measures pack from `dtype`; NotTernary when one does not."""
    group = common_group({f"{name}.weight": fit for name, fit in fits.items()})
    weights = sum(prod(shape) for shape in shapes.values())
    return Packing(
        group=group,
        weights=weights,
        nbytes=sum(packed_bytes(shape, group, dtype) for shape in shapes.values()),
        nbytes_before=weights * dtype.itemsize,
    )


def hold_packed(model: Packable, name: str, weight: QuantTensor) -> None:
    """Let a packed projection take the place of the one of this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, QuantLinear(weight))


def _refuse_adapters(parts: Mapping[str, nn.Linear | NativeLinear]) -> None:
    adapted = [name for name, part in parts.items() if type(part) not in (nn.Linear, NativeLinear)]
    if adapted:
        raise BadParameter(
            f"{len(adapted)} projections carry adapters, {adapted[0]} for one. Packing would drop them, so "
            "it is refused. Pack a model before adapters are added to it."
        )
