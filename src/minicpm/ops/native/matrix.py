"""A weight matrix in the layout of the native kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor

from minicpm.ops.native import required
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.quant_tensor import QuantTensor, can_join, joined, pack_codes, unpack_codes

BLOCK, PANEL = 16, 32
GROUPS = (128, 64, 32, 16)
"""Columns per scale that the kernels know."""
_FORMATS = {8: 1, 4: 2, 3: 2, 2: 3}  # by bits per code; bfloat16 is 0
_KEPT = -2  # in an order: the output stays as it is
_STORE, _ROUND = 0, 1  # what becomes of a product: float32 or bfloat16
MIDDLE, ZEROS, OFFSETS = 0, 1, 2
"""What turns codes into numbers around zero: the middle code, a zero per group, or an offset per group."""
LAYOUT = 2
"""Number of the layout that native/core/matrix.hpp draws; it changes whenever that does."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a matrix [rows, inputs] in the kernels' layout is, beside its bytes.

    `format`, `shift` and the rest are those of native/core/matrix.hpp. `interleaved` holds the two halves of
    the rows in turns of 16.
    """

    format: int
    rows: int
    inputs: int
    group: int
    shift: int
    factor: float
    interleaved: bool

    def order(self) -> Tensor:
        """The row that lies in each output slot of the kernels, int32, -1 for none."""
        order = _interleaved(self.rows) if self.interleaved else torch.arange(self.rows, dtype=torch.int32)
        return torch.nn.functional.pad(order, (0, -len(order) % PANEL), value=-1).contiguous()


@dataclass(frozen=True, eq=False)
class NativeMatrix:
    """A matrix [O, I] of bfloat16 or of codes with scales, in a runtime's arena; never written to.

    `order` [slots] int32 says which row lies in each output slot of the kernels, -1 for none.
    """

    handle: Any
    runtime: Runtime
    shape: tuple[int, int]
    order: Tensor
    in_order: bool
    description: Description
    address: int

    def buffer(self) -> memoryview:
        """The bytes in the arena, valid while the runtime lives: to fill a reserved matrix, or copy one."""
        return memoryview((ctypes.c_uint8 * self.nbytes).from_address(self.address)).cast("B")

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.handle.nbytes

    @property
    def dtype(self) -> torch.dtype:
        """Of what it gives."""
        return torch.bfloat16

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """x W^T for x [..., I] bfloat16 or float32; [..., O] in `dtype`, bfloat16 or float32.

        Codes of 8 bits and fewer are multiplied with x rounded to 8 bits per group of columns.
        """
        rows = x.reshape(-1, self.shape[1])
        if rows.dtype not in (torch.float32, torch.bfloat16):
            rows = rows.to(torch.bfloat16)
        rows = rows.contiguous()
        slots = self.shape[0] if self.in_order else len(self.order)
        out = torch.empty(len(rows), slots, dtype=dtype)
        if len(rows):
            self.handle.matmul(
                self.runtime.pool,
                self.runtime.scratch,
                rows.data_ptr(),
                rows.dtype == torch.float32,
                len(rows),
                out.data_ptr(),
                _STORE if dtype == torch.float32 else _ROUND,
                slots,
                1.0,
            )
        return (out if self.in_order else out[:, self.places()]).unflatten(0, x.shape[:-1])

    def decoded(self) -> Tensor:
        """The matrix as the kernels multiply with it, float32 [O, I]."""
        out = torch.empty(self.shape)
        self.handle.unpack(self.runtime.pool, self.order.data_ptr(), out.data_ptr())
        return out

    @property
    def bits(self) -> int:
        """Bits per code; 16 for bfloat16."""
        return self.handle.bits

    def write(self, first: int, weight: Tensor) -> None:
        """Put bfloat16 rows [n, I] in the place of rows `first` on; no forward may run meanwhile."""
        assert self.bits == 16, "rows of codes cannot be written one by one"
        source = weight.to(torch.bfloat16).contiguous()
        ours = (self.order >= first) & (self.order < first + len(source))
        order = torch.where(ours, self.order - first, _KEPT).to(torch.int32)
        inputs = self.shape[1]
        self.handle.pack(
            self.runtime.pool, source.data_ptr(), 2 * inputs, 0, 0, 0, 1, inputs, order.data_ptr()
        )

    def gather(self, rows: Tensor) -> Tensor:
        """Rows [n] of the matrix, bfloat16 [n, I]."""
        assert self.in_order, "only rows that lie in their order are gathered"
        index = rows.to(torch.int64).contiguous()
        out = torch.empty(len(index), self.shape[1], dtype=torch.bfloat16)
        self.handle.gather(index.data_ptr(), len(index), out.data_ptr())
        return out

    def places(self) -> Tensor:
        """The output slot of every row, int64 [O]."""
        places = torch.empty(self.shape[0], dtype=torch.int64)
        filled = self.order >= 0
        places[self.order[filled].long()] = torch.arange(len(self.order))[filled]
        return places

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeMatrix:
        return self


Part = Tensor | QuantTensor


def why_not(parts: Sequence[Part]) -> str | None:
    """Why these matrices of the same inputs cannot be held in the kernels' layout; None when they can."""
    first = parts[0]
    if isinstance(first, Tensor):
        if any(part.dtype != torch.bfloat16 for part in parts):
            return f"its weights are {str(first.dtype).removeprefix('torch.')}, and the kernels know bfloat16"
        return f"{first.shape[1]} inputs are an odd number" if first.shape[1] % 2 else None
    return _why_not_codes([part for part in parts if isinstance(part, QuantTensor)])


def _why_not_codes(packed: Sequence[QuantTensor]) -> str | None:
    if not can_join(packed):
        return "no one scheme holds its matrices"
    if any(part.scheme.bits not in _FORMATS for part in packed):
        return f"there are no kernels for {min(part.scheme.bits for part in packed)} bits"
    if (group := gcd(*(part.scheme.group for part in packed))) % GROUPS[-1]:
        return f"groups of {group} columns are not a multiple of {GROUPS[-1]}"
    return None


def pack(parts: Sequence[Part], runtime: Runtime, *, interleaved: bool = False) -> NativeMatrix:
    """Matrices of the same inputs under each other, packed for the kernels; `why_not` must know no reason.

    `interleaved` holds two of the same size in turns of 16 rows, as the kernels of gated feed-forwards ask.
    """
    plain = [part for part in parts if isinstance(part, Tensor)]
    if plain:
        return _pack_plain(plain[0] if len(plain) == 1 else torch.cat(plain), interleaved, runtime)
    return _pack_codes(
        joined([part for part in parts if isinstance(part, QuantTensor)]), interleaved, runtime
    )


def reserve(description: Description, runtime: Runtime) -> NativeMatrix:
    """A matrix whose bytes are zeros still."""
    d, native = description, required()
    order = d.order()
    layout = (d.format, len(order) if d.interleaved else d.rows, d.inputs, d.group, d.shift)
    address = runtime.arena.take(native.Matrix.bytes_of(*layout))
    handle = native.Matrix(*layout, d.factor, address)
    return NativeMatrix(handle, runtime, (d.rows, d.inputs), order, not d.interleaved, d, address)


def _interleaved(outputs: int) -> Tensor:
    """Slots in which 16 rows of the first half precede the same 16 of the second."""
    half = outputs // 2
    filled = torch.nn.functional.pad(torch.arange(half, dtype=torch.int32), (0, -half % BLOCK), value=-1)
    blocks = filled.view(-1, BLOCK)
    return torch.stack((blocks, torch.where(blocks < 0, -1, blocks + half)), dim=1).flatten().to(torch.int32)


def _pack_plain(weight: Tensor, interleaved: bool, runtime: Runtime) -> NativeMatrix:
    rows, inputs = weight.shape
    matrix = reserve(Description(0, rows, inputs, inputs, MIDDLE, 1.0, interleaved), runtime)
    weight = weight.contiguous()
    order = matrix.order.data_ptr()
    matrix.handle.pack(runtime.pool, weight.data_ptr(), 2 * inputs, 0, 0, 0, 1, inputs, order)
    return matrix


def _pack_codes(weight: QuantTensor, interleaved: bool, runtime: Runtime) -> NativeMatrix:
    scales = weight.scales.float().contiguous()
    zeros = None if weight.zeros is None else weight.zeros.to(torch.uint8).contiguous()
    offsets = None if weight.offsets is None else weight.offsets.float().contiguous()
    codes = _wider(weight).contiguous() if weight.scheme.bits == 3 else weight.codes.contiguous()
    group = _group(weight)
    assert group is not None, "why_not was not asked"
    shift = ZEROS if zeros is not None else OFFSETS if offsets is not None else MIDDLE
    factor = max(_factor(part) for part in (scales, offsets) if part is not None)
    description = Description(_FORMATS[weight.scheme.bits], *weight.shape, group, shift, factor, interleaved)
    matrix = reserve(description, runtime)
    matrix.handle.pack(
        runtime.pool,
        codes.data_ptr(),
        codes.shape[1],
        scales.data_ptr(),
        0 if zeros is None else zeros.data_ptr(),
        0 if offsets is None else offsets.data_ptr(),
        scales.shape[1],
        weight.scheme.group,
        matrix.order.data_ptr(),
    )
    return matrix


def _factor(numbers: Tensor) -> float:
    """The power of two that brings float32 numbers into float16."""
    factor: float = required().scale_factor(numbers.data_ptr(), numbers.numel())
    return factor


def _wider(weight: QuantTensor) -> Tensor:
    """Codes of 3 bits as those of 4 that stand for the same numbers."""
    codes = unpack_codes(weight.codes, 3, weight.shape[1])
    return pack_codes(codes + 4 if weight.scheme.symmetric else codes, 4)


def _group(weight: QuantTensor) -> int | None:
    """The largest group of the kernels that divides the matrix's own."""
    return next((group for group in GROUPS if weight.scheme.group % group == 0), None)
