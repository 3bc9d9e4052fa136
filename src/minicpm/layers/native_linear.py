"""Projections, and an embedding, whose weights lie in the layout of the native kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.native.matrix import NativeMatrix, Part, pack, why_not
from minicpm.ops.native.runtime import Runtime


class _Held(nn.Module):
    """Rows `first` up to `last` of a native matrix in the place of a weight; inference only.

    `state_dict` shows the matrix that the kernels multiply with, under the name a plain weight has.
    """

    matrix: NativeMatrix

    def __init__(self, matrix: NativeMatrix, first: int, last: int) -> None:
        super().__init__()
        self.matrix, self.first, self.last = matrix, first, last

    @property
    def weight(self) -> Tensor:
        """The weight decoded, [O, I] bfloat16."""
        return self.matrix.decoded()[self.first : self.last].to(self.matrix.dtype)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight


class NativeLinear(_Held):
    """y = W x without a bias."""

    def __init__(self, matrix: NativeMatrix, first: int, last: int) -> None:
        super().__init__(matrix, first, last)
        self.out_features, self.in_features = last - first, matrix.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] to [..., O]."""
        out = self.matrix(x)
        return out if self.out_features == self.matrix.shape[0] else out[..., self.first : self.last]

    def write(self, weight: Tensor) -> None:
        """Put a weight [O, I] in the place of this one, which must be held in bfloat16."""
        self.matrix.write(self.first, weight)


class NativeEmbedding(_Held):
    """The rows of a matrix that token ids name."""

    def __init__(self, matrix: NativeMatrix) -> None:
        super().__init__(matrix, 0, matrix.shape[0])

    def forward(self, ids: Tensor) -> Tensor:
        """ids [T] to [T, D] bfloat16."""
        return self.matrix.gather(ids)


def held_natively(
    parent: nn.Module, names: Sequence[str], runtime: Runtime, *, interleaved: bool = False
) -> NativeMatrix | None:
    """One native matrix of the projections of these names, which then are views of it.

    They may have come as such, out of a file. None, and nothing changed, where they cannot be: some are no
    plain or packed projections, as with adapters, or the kernels do not know their format.
    """
    modules = [parent.get_submodule(name) for name in names]
    if (joint := _joint(modules)) is not None and joint.in_order != interleaved:
        return joint
    parts = [part for module in modules if (part := _part(module)) is not None]
    if len(parts) < len(modules) or len({type(part) for part in parts}) > 1 or why_not(parts):
        return None
    matrix = pack(parts, runtime, interleaved=interleaved)
    first = 0
    for name, part in zip(names, parts, strict=True):
        setattr(parent, name, NativeLinear(matrix, first, first + part.shape[0]))
        first += part.shape[0]
    return matrix


def _joint(modules: Sequence[nn.Module]) -> NativeMatrix | None:
    """The matrix that these modules together are all rows of, in this order, if there is one."""
    native = all(isinstance(module, NativeLinear) for module in modules)
    if not native or len({id(module.matrix) for module in modules}) > 1:
        return None
    edges = [0, *(module.last for module in modules)]
    matrix = modules[0].matrix
    joint = [module.first for module in modules] == edges[:-1] and edges[-1] == matrix.shape[0]
    return matrix if joint else None


def _part(module: nn.Module) -> Part | None:
    if type(module) is QuantLinear:
        return module.packed
    if type(module) is nn.Linear and module.bias is None:
        return module.weight.detach()
    return None


def is_native(*modules: nn.Module) -> bool:
    """True when all are native projections and do nothing more than their weight says."""
    return all(isinstance(m, NativeLinear) and not getattr(m, "updates", None) for m in modules)


@torch.no_grad()
def native_embedding(embedding: nn.Module, runtime: Runtime) -> NativeEmbedding | None:
    """An embedding [V, D] in the kernels' layout, or None where they do not know its format."""
    if type(embedding) is QuantEmbedding:
        part: Part | None = embedding.packed
    else:
        part = embedding.weight.detach() if type(embedding) is nn.Embedding else None
    return None if part is None or why_not([part]) else NativeEmbedding(pack([part], runtime))
