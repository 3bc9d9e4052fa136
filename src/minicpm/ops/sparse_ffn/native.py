"""The feed-forward of active neurons with the native kernels, from norm to residual in one call."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minicpm.ops.native import required
from minicpm.ops.native.matrix import MIDDLE, NativeMatrix, Part, pack
from minicpm.ops.native.matrix import why_not as why_not_packed
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.quant_tensor import QuantTensor

_COLUMNS = 64  # of down that are interleaved together
_GROUPS = (128, 64, 32)  # columns per scale
_BFLOAT16, _INT8 = 0, 1


Held = Part | NativeMatrix
"""A matrix as it was loaded, or as a prepared model holds it."""


class _Codes(NamedTuple):
    """What the codes of a matrix are."""

    bits: int
    group: int
    symmetric: bool


def why_not(gate: Held, up: Held, down: Held) -> str | None:
    """Why these matrices, down [D, I], cannot be read by neuron; None when they can.

    Gate and up may be one native matrix of both.
    """
    parts = (gate, up, down)
    loaded = [part for part in parts if not isinstance(part, NativeMatrix)]
    if (reason := next(filter(None, (why_not_packed([part]) for part in loaded)), None)) is not None:
        return reason
    codes = [found for part in parts if (found := _codes_of(part)) is not None]
    if not codes:
        return None
    if len(codes) < len(parts):
        return "some of its matrices are packed and others are not"
    if any(found.bits != 8 or not found.symmetric for found in codes):
        return "single neurons are read of bfloat16 and of symmetric codes of 8 bits"
    if len({found.group for found in codes}) > 1 or codes[0].group not in _GROUPS:
        return f"its scales are not all for groups of the same of {_GROUPS}"
    return f"{down.shape[0]} outputs are not a multiple of {_COLUMNS}" if down.shape[0] % _COLUMNS else None


def _codes_of(part: Held) -> _Codes | None:
    """None for bfloat16."""
    match part:
        case NativeMatrix(description=held):
            return None if part.bits == 16 else _Codes(part.bits, held.group, held.shift == MIDDLE)
        case QuantTensor():
            return _Codes(part.scheme.bits, part.scheme.group, part.scheme.symmetric)
    return None


class NativeNeurons:
    """h += residual_scale * down(act(gate x) * up x), x = rms_norm(h) * norm; act keeps what is > threshold.

    Exact: a neuron whose gate is zero adds exactly zero, so this multiplies the same numbers as the kernels
    of the dense form and adds them in another order in float32. `gate` is packed unless it is a native matrix
    already; up and down are copied into the runtime's arena, a row per neuron, and take their bytes again.
    """

    def __init__(
        self,
        gate: Part | NativeMatrix,
        up: Part,
        down: Part,
        *,
        norm: Tensor,
        eps: float,
        threshold: float,
        residual_scale: float,
        runtime: Runtime,
    ) -> None:
        self.runtime = runtime
        self.gate = gate if isinstance(gate, NativeMatrix) else pack([gate], runtime)
        weight = norm.float().contiguous()
        self.handle: Any = required().Neurons(
            weight.data_ptr(),
            eps,
            self.gate.handle,
            _up_rows(up, runtime),
            _down_rows(down, runtime),
            threshold,
            residual_scale,
        )

    def __call__(self, h: Tensor) -> None:
        """Adds to h [T, D] bfloat16 in place, row after row; sensible for few."""
        assert h.dtype == torch.bfloat16, "rows are bfloat16"
        assert h.is_contiguous(), "rows are contiguous"
        self.handle.run(self.runtime.pool, self.runtime.scratch, h.data_ptr(), len(h))

    @property
    def active(self) -> int:
        """Neurons that were active in the last forward, in all of its rows together."""
        return self.handle.active

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeNeurons:
        return self


def _up_rows(up: Part, runtime: Runtime) -> Any:
    """Up [I, D] as it is: a row is a neuron."""
    if isinstance(up, QuantTensor):
        return _codes(up.codes, up.scales, up.scheme.group, runtime)
    return _numbers(up, runtime)


def _down_rows(down: Part, runtime: Runtime) -> Any:
    """Down [D, I] turned, so that a row is a neuron."""
    if not isinstance(down, QuantTensor):
        return _numbers(down.t(), runtime)
    # Within 64 columns, the bytes of four neurons are in order once they are interleaved (core/neurons.hpp).
    turned = down.codes.t()
    blocks = turned.reshape(len(turned), -1, 4, 4, 4).transpose(2, 3).flatten(1)
    return _codes(blocks, down.scales.t(), down.scheme.group, runtime)


def _numbers(rows: Tensor, runtime: Runtime) -> Any:
    neurons, width = rows.shape
    return required().NeuronRows(_BFLOAT16, neurons, width, width, 1.0, _copied(rows, runtime), 0)


def _codes(codes: Tensor, scales: Tensor, group: int, runtime: Runtime) -> Any:
    wide = scales.float().contiguous()
    factor = required().scale_factor(wide.data_ptr(), wide.numel())
    halves = (wide / factor).half()
    neurons, width = codes.shape
    return required().NeuronRows(
        _INT8, neurons, width, group, factor, _copied(codes, runtime), _copied(halves, runtime)
    )


def _copied(x: Tensor, runtime: Runtime) -> int:
    x = x.contiguous()
    address: int = runtime.arena.take(x.nbytes)
    ctypes.memmove(address, x.data_ptr(), x.nbytes)
    return address
