"""The second half of a block that leaves inactive neurons out of small forwards."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from minicpm.config import FATReLU
from minicpm.layers.mlp import MLP
from minicpm.layers.native_block import NativeMLP
from minicpm.layers.native_linear import NativeLinear, is_native
from minicpm.layers.norm import RMSNorm
from minicpm.ops.native.matrix import NativeMatrix
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.native.unpack import unpacked
from minicpm.ops.sparse_ffn import native
from minicpm.ops.sparse_ffn.native import NativeNeurons


class NativeSparseMLP:
    """As a `NativeMLP`: by active neurons alone in forwards of up to `rows` rows, by all in larger ones.

    Both forms of the weights are held. That of the neurons is a copy, which a weight written to later leaves
    as it was.
    """

    def __init__(self, dense: NativeMLP, neurons: NativeNeurons, rows: int) -> None:
        self.dense, self.neurons, self.rows = dense, neurons, rows

    def __call__(self, h: Tensor) -> None:
        """Adds to h."""
        half = self.neurons if len(h) <= self.rows else self.dense
        half(h)

    def append_to(self, stack: Any) -> None:
        """Let a native stack do this next."""
        stack.feed_active(self.dense.handle, self.neurons.handle, self.rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeSparseMLP:
        return self


def why_not_neurons(mlp: MLP) -> str | None:
    """Why a feed-forward held natively cannot be read by neuron; None when it can."""
    if not is_native(mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        return "its weights have adapters"
    gate_up, down = _held(mlp)
    return native.why_not(gate_up, gate_up, down.matrix)


def neurons_of(norm: RMSNorm, mlp: MLP, residual_scale: float, runtime: Runtime) -> NativeNeurons:
    """The neurons of such a feed-forward, copied; `why_not_neurons` must know no reason."""
    gate_up, down = _held(mlp)
    act, half = mlp.config.act, mlp.config.intermediate
    assert isinstance(act, FATReLU), "other activations leave no neuron at exactly zero"
    return NativeNeurons(
        unpacked(gate_up, 0, half),
        unpacked(gate_up, half, 2 * half),
        unpacked(down.matrix, down.first, down.last),
        norm=norm.weight.detach(),
        eps=norm.eps,
        threshold=act.threshold,
        residual_scale=residual_scale,
        runtime=runtime,
    )


def _held(mlp: MLP) -> tuple[NativeMatrix, NativeLinear]:
    """Gate and up under each other, and down."""
    assert isinstance(mlp.fused, NativeMatrix), "the feed-forward is not held natively"
    assert isinstance(mlp.down_proj, NativeLinear), "the feed-forward is not held natively"
    return mlp.fused, mlp.down_proj
