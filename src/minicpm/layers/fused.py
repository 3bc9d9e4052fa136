"""Joins projections of the same input into one matrix that their modules then view, and applies them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minicpm.layers.lora import adapted
from minicpm.layers.native_linear import held_natively
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.backend import Backend
from minicpm.ops.linear import Weight, linear
from minicpm.ops.quant_tensor import QuantTensor, can_join, joined


def fuse(parent: nn.Module, names: Sequence[str], backend: Backend, *, gated: bool = False) -> Weight | None:
    """The weights of these projections under each other, [sum of out, in], as the backend wants them.

    Each module's weight becomes a view of the result: nothing is held twice, and `state_dict` still shows the
    published names. `gated` says that the second is multiplied with an activation of the first. None where no
    one matrix holds them, as where some are packed and some are not; each then is by itself.
    """
    if backend.runtime is not None:
        native = held_natively(parent, names, backend.runtime, interleaved=gated)
        if native is not None:
            return native
    linears = [parent.get_submodule(name) for name in names]
    if _alike(linears):
        return stack(linears)
    hold(parent, names, backend)
    return None


def hold(parent: nn.Module, names: Sequence[str], backend: Backend) -> None:
    """Let these projections, each by itself, be held as the backend wants them."""
    for name in names if backend.runtime is not None else ():
        held_natively(parent, [name], backend.runtime)


def _alike(linears: Sequence[nn.Module]) -> bool:
    packed = [projection.packed for projection in linears if isinstance(projection, QuantLinear)]
    return not packed or (len(packed) == len(linears) and can_join(packed))


def stack(linears: Sequence[nn.Module]) -> Weight:
    """The weights under each other; packed ones stay packed."""
    packed = [projection for projection in linears if isinstance(projection, QuantLinear)]
    if not packed:
        return _fuse_plain(linears)
    assert len(packed) == len(linears), "projections of one input are packed together or not at all"
    return _fuse_packed(packed)


@torch.no_grad()
def _fuse_plain(linears: Sequence[nn.Linear]) -> Tensor:
    stacked = torch.cat([projection.weight for projection in linears])
    parts = stacked.split([projection.out_features for projection in linears])
    for projection, part in zip(linears, parts, strict=True):
        projection.weight = nn.Parameter(part, requires_grad=False)
    return stacked


def _fuse_packed(linears: Sequence[QuantLinear]) -> QuantTensor:
    stacked = joined([projection.packed for projection in linears])
    first = 0
    for projection in linears:
        projection.hold(stacked.rows(first, first + projection.out_features))
        first += projection.out_features
    return stacked


def project(x: Tensor, linears: Sequence[nn.Linear], fused: Weight | None) -> tuple[Tensor, ...]:
    """x [T, I] through each projection: by one product where `fused` is their joint matrix."""
    if fused is None:
        return tuple(projection(x) for projection in linears)
    parts = linear(x, fused).split([projection.out_features for projection in linears], dim=-1)
    return tuple(adapted(projection, x, part) for projection, part in zip(linears, parts, strict=True))
