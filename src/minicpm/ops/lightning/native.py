"""Lightning attention with the native kernels: one pass over a state per token, or products of chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from minicpm.ops.native import required
from minicpm.ops.native.head_rows import as_rows, head_rows
from minicpm.ops.native.runtime import Runtime

_BLOCK, _MOST = 16, 256  # widths of keys and values that the kernels know: multiples, and the largest


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Rows row .. row + count - 1 continue a state: `before`, None for nothing, is read, `after` is written.

    States [H, dk, dv] float32, contiguous. `after` may be `before` itself.
    """

    before: Tensor | None
    after: Tensor
    row: int
    count: int


def why_not(keys: int, values: int) -> str | None:
    """Why heads of these widths cannot be read natively; None when they can."""
    if keys % _BLOCK or values % _BLOCK:
        return f"keys {keys} and values {values} wide are not multiples of {_BLOCK}"
    return f"keys or values are wider than {_MOST}" if max(keys, values) > _MOST else None


def advance(
    q: Tensor, k: Tensor, v: Tensor, spans: Sequence[Span], *, slopes: Tensor, scale: float, runtime: Runtime
) -> Tensor:
    """What the heads read, [T, H, dv] like q, for the rows of all spans; other rows are not initialised.

    q [T, H, dk], k [T, Hk, dk] and v [T, Hk, dv], float32 or bfloat16: each H / Hk heads in turn read the
    same head of k and v. Spans are done in order, so one may begin with the state that an earlier one leaves.
    Where `after` is `before` a step writes in place, which costs less than a new state does.
    """
    q, k, v = as_rows(q), as_rows(k), as_rows(v)
    out = torch.empty(*q.shape[:2], v.shape[2], dtype=q.dtype)
    _operator(tuple(slopes.tolist()), k.shape[1], scale).run(
        runtime.pool,
        runtime.scratch,
        head_rows(q),
        head_rows(k),
        head_rows(v),
        head_rows(out),
        k.shape[2],
        v.shape[2],
        [(_address(span.before), _address(span.after), span.row, span.count) for span in spans],
    )
    return out


def continued(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    *,
    slopes: Tensor,
    scale: float,
    runtime: Runtime,
) -> tuple[Tensor, Tensor]:
    """As `reference.recurrent` for one sequence, without gradients; k and v may have fewer heads."""
    shape = (q.shape[1], k.shape[2], v.shape[2])
    after = torch.empty(shape) if len(q) else torch.zeros(shape) if state is None else state
    before = None if state is None else state.contiguous()
    spans = [Span(before, after, 0, len(q))] if len(q) else []
    return advance(q, k, v, spans, slopes=slopes, scale=scale, runtime=runtime).to(q.dtype), after


@lru_cache(maxsize=64)
def _operator(slopes: tuple[float, ...], shared: int, scale: float) -> Any:
    numbers = torch.tensor(slopes, dtype=torch.float32)
    return required().Lightning(numbers.data_ptr(), len(slopes), shared, scale)


def _address(state: Tensor | None) -> int:
    if state is None:
        return 0
    assert state.dtype == torch.float32, "states are float32"
    assert state.is_contiguous(), "states are contiguous"
    return state.data_ptr()
