"""Latent attention in its absorbed form with the native kernels, which read the cached rows in place."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minicpm.ops.native import required
from minicpm.ops.native.head_rows import as_rows, head_rows
from minicpm.ops.native.runtime import Runtime

_BLOCK = 16  # numbers in a vector of the kernels


@dataclass(frozen=True, slots=True, eq=False)
class LatentSegment:
    """Rows row .. row + count - 1 of the queries are the last of a sequence of `length` cached tokens.

    `pages` int32, contiguous, says which page of 64 rows holds each page of the sequence; None where they lie
    in order from the first row on.
    """

    row: int
    count: int
    length: int
    pages: Tensor | None = None


def why_not(u_k: Tensor, u_v: Tensor, width: int) -> str | None:
    """Why these matrices and rows of latents of this width cannot be read natively; None when they can."""
    if u_k.dtype != torch.bfloat16 or u_v.dtype != torch.bfloat16:
        return f"its weights are {str(u_k.dtype).removeprefix('torch.')}, and the kernels know bfloat16"
    rank = u_k.shape[2]
    if rank % _BLOCK:
        return f"a rank of {rank} is not a multiple of {_BLOCK}"
    return f"latents {width} wide are an odd number" if width % 2 else None


class NativeLatent:
    """Reads latents for u_k [H, nope, r] and u_v [H, value, r], bfloat16; `why_not` must know no reason.

    A copy of both lies in the runtime's arena.
    """

    def __init__(self, u_k: Tensor, u_v: Tensor, *, rope: int, runtime: Runtime) -> None:
        heads, nope, rank = u_k.shape
        self.runtime = runtime
        self.value = u_v.shape[1]
        joint = torch.cat((u_k, u_v), dim=1).contiguous()  # [H, nope + value, r], as kv_b_proj has them
        address = runtime.arena.take(joint.nbytes)
        ctypes.memmove(address, joint.data_ptr(), joint.nbytes)
        self._handle: Any = required().Latent(
            heads, nope, rope, self.value, rank, address, address + 2 * nope * rank, joint.stride(0)
        )

    def __call__(self, q: Tensor, latents: Tensor, segments: Sequence[LatentSegment]) -> Tensor:
        """As `reference.attend_latent` for each segment, [T, H, value] like q; other rows are not set.

        q [T, H, nope + rope] float32 or bfloat16; latents [rows, r + rope] bfloat16, of which only those of a
        sequence's `length` are read. Sums and what lies between the products are float32.
        """
        assert latents.dtype == torch.bfloat16, "latents are bfloat16"
        assert latents.is_contiguous(), "latents are contiguous"
        rows = as_rows(q)
        out = torch.empty(*rows.shape[:2], self.value, dtype=rows.dtype)
        self._handle.run(
            self.runtime.pool,
            self.runtime.scratch,
            head_rows(rows),
            latents.data_ptr(),
            head_rows(out),
            [(s.row, s.count, s.length, 0 if s.pages is None else s.pages.data_ptr()) for s in segments],
        )
        return out.to(q.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeLatent:
        return self
