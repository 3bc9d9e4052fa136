"""What every layer of one forward shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from minicpm.cache import Batch, BlockedStore, Cache, CachePlan, Rows, Segment, Store, TokenStore
from minicpm.config import Rope
from minicpm.layers.native_step import NativeStep
from minicpm.ops.backend import Backend
from minicpm.ops.rope import Angles, rope_angles


@dataclass(frozen=True, slots=True)
class Step:
    """Operators, rotary angles and segments of one forward; with a cache also where its rows are.

    With `causal` False a token sees all of its segment; then there is no cache.
    """

    ops: Backend
    angles: Angles
    segments: tuple[Segment, ...]
    cache: Cache | None
    plan: CachePlan | None
    causal: bool = True
    native: NativeStep | None = None

    @classmethod
    def of(cls, batch: Batch, rope: Rope, ops: Backend, *, causal: bool = True) -> Step:
        """For a batch whose positions `rope` rotates."""
        plan = batch.cache.plan(batch.segments) if batch.cache is not None else None
        angles = rope_angles(rope, batch.positions)
        native = None
        if ops.runtime is not None and plan is not None:
            native = NativeStep.of(angles, batch.segments, plan)
        return cls(ops, angles, batch.segments, batch.cache, plan, causal=causal, native=native)

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return len(self.angles.cos)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of packed q [T, H, d], k and v [T, Hk, d] within their segments, [T, H, d]."""
        if not self.causal:
            assert self.cache is None, "tokens that see what follows them cannot be continued from a cache"
            return _in_runs(self.ops.attend_full, self.segments, q, k, v)
        if self.cache is None or self.plan is None:
            return _attend_fresh(self.ops, self.segments, q, k, v)
        store = _token_store(self.cache.stores[layer])
        return _attend_cached(self.ops, self.segments, self.plan, store, (q, k, v))


def _token_store(store: Store) -> TokenStore | BlockedStore:
    assert isinstance(store, TokenStore | BlockedStore), (
        f"softmax attention needs a TokenStore, not {type(store).__name__}"
    )
    return store


def _attend_fresh(ops: Backend, segments: Sequence[Segment], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if len(segments) == 1:
        return ops.attend(q, k, v)
    return _in_runs(ops.attend_equal, segments, q, k, v)


def _in_runs(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    segments: Sequence[Segment],
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Tensor:
    """`attend` on neighbouring segments of equal length together: q, k, v [B, T, heads, d]."""
    runs = [(count, len(list(run))) for count, run in groupby(segment.count for segment in segments)]
    tokens = [count * times for count, times in runs]
    outs = []
    for (count, times), *qkv in zip(runs, q.split(tokens), k.split(tokens), v.split(tokens), strict=True):
        out = attend(*(x.unflatten(0, (times, count)) for x in qkv))
        outs.append(out.flatten(0, 1))
    return _concatenate(outs)


def _attend_cached(
    ops: Backend,
    segments: Sequence[Segment],
    plan: CachePlan,
    store: TokenStore | BlockedStore,
    qkv: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    q, k, v = qkv
    store.write(plan.write, k, v)
    queries = q.split([segment.count for segment in segments])
    return _concatenate(
        [_attend_past(ops, q, store, rows) for q, rows in zip(queries, plan.reads, strict=True)]
    )


def _attend_past(ops: Backend, q: Tensor, store: TokenStore | BlockedStore, rows: Rows) -> Tensor:
    k, v = store.read(rows)
    return ops.attend(q, k.to(q.dtype), v.to(q.dtype))  # a cache may be narrower than the weights


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
