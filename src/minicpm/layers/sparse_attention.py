"""Attention that reads only what its queries choose once a sequence is long (InfLLM-V2, arXiv 2509.24663)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.cache import BlockedSparseStore, Rows, SparseStore
from minicpm.config import InfLLM
from minicpm.config.kv import AUTO
from minicpm.config.sparse import dense_positions
from minicpm.layers.attention import Attention
from minicpm.layers.step import Step
from minicpm.ops.backend import Backend
from minicpm.ops.sparse import Scorer


class _Heads(NamedTuple):
    """What attends, q [T, H, d], k and v [T, Hk, d], and what chooses: that q and k, or both unrotated."""

    q: Tensor
    k: Tensor
    v: Tensor
    choosing_q: Tensor
    choosing_k: Tensor

    def split(self, counts: Sequence[int]) -> list[_Heads]:
        """The heads of each segment."""
        parts = (torch.split(x, list(counts)) for x in self)
        return [_Heads(*segment) for segment in zip(*parts, strict=True)]


class _Past(NamedTuple):
    """A sequence: k and v [n, Hk, d] and what makes its compressed keys [J, Hk, d].

    Or larger k and v, with the row of each position in `rows` [n].
    """

    k: Tensor
    v: Tensor
    rows: Tensor | None
    compressed: Callable[[], Tensor]

    @property
    def length(self) -> int:
        """The number n of positions."""
        return len(self.k if self.rows is None else self.rows)

    def first(self, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of the first positions; a cache may be narrower than the weights."""
        where = slice(count) if self.rows is None else self.rows[:count]
        return self.k[where].to(dtype), self.v[where].to(dtype)


class SparseAttention(Attention):
    """The projections, rotation and gate of `Attention`; nothing is learned for the choice.

    A query is sparse by its own position, as it would be if tokens came one by one: at position i it is dense
    while i + 1 < dense_len. So a sequence gives the same whether it comes whole, in chunks or after a cached
    prefix. The published prefill decides for a whole prompt by its length instead; a dense_len of -1 agrees
    with it on prompts that it calls sparse. Otherwise the two differ at positions between the budget of
    chosen blocks and dense_len, 6,144 to 8,190 in the published geometry.
    """

    def __init__(self, hidden: int, mixer: InfLLM, *, layer: int) -> None:
        super().__init__(hidden, mixer.attention, layer=layer)
        self._infllm = mixer
        self._dense = dense_positions(mixer.sparse)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        """As `Attention.mix`: q [T, H, d], k and v [T, Hk, d] unrotated; [T, H, d]."""
        assert step.causal, "blocks are chosen among what came before a token"
        heads = self._heads(q, k, v, step)
        if step.plan is not None:
            return self._read_cached(heads, step)
        if all(segment.start + segment.count <= self._dense for segment in step.segments):
            return step.attend(self.layer, heads.q, heads.k, heads.v)
        compress = self._compress(step.ops)
        segments = heads.split([segment.count for segment in step.segments])
        pasts = [_Past(s.k, s.v, None, partial(compress, s.choosing_k)) for s in segments]
        return self._read_all(segments, pasts, step.ops)

    @property
    def infllm(self) -> InfLLM:
        """How it chooses blocks."""
        return self._infllm

    def new_store(
        self, pages: int, dtype: torch.dtype, device: torch.device, kv: str = AUTO
    ) -> SparseStore | BlockedSparseStore:
        """An empty store of `pages` pages for this layer, `kv` as for `Decoder.new_cache`."""
        held = self._page_format(dtype, kv)
        if held is None:
            return SparseStore(pages, self.infllm, dtype=dtype, device=device)
        return BlockedSparseStore(pages, self.infllm, held=held, device=device)

    def _heads(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> _Heads:
        if not self.mixer.rotary:
            return _Heads(q, k, v, q, k)
        turned_q, turned_k = step.ops.rotate(q, step.angles), step.ops.rotate(k, step.angles)
        choosing = (q, k) if self.infllm.scores_unrotated else (turned_q, turned_k)
        return _Heads(turned_q, turned_k, v, *choosing)

    def _read_cached(self, heads: _Heads, step: Step) -> Tensor:
        assert step.plan is not None
        store = self._write(heads, step)
        segments = heads.split([segment.count for segment in step.segments])
        return self._read_all(segments, [_past(store, rows) for rows in step.plan.reads], step.ops)

    def _write(self, heads: _Heads, step: Step) -> SparseStore | BlockedSparseStore:
        """The layer's store with all that this forward adds to it."""
        assert step.cache is not None
        assert step.plan is not None
        store = step.cache.stores[self.layer]
        assert isinstance(store, SparseStore | BlockedSparseStore), (
            f"a SparseStore is needed here, not {type(store).__name__}"
        )
        store.write(step.plan.write, heads.k, heads.v)
        if self.infllm.scores_unrotated:
            store.write_unrotated(step.plan.write, heads.choosing_k)
        for segment, rows in zip(step.segments, step.plan.reads, strict=True):
            store.complete(rows, segment.start, self._compress(step.ops))
        return store

    def _read_all(self, segments: Sequence[_Heads], pasts: Sequence[_Past], ops: Backend) -> Tensor:
        return torch.cat([self._read(s, past, ops) for s, past in zip(segments, pasts, strict=True)])

    def _read(self, heads: _Heads, past: _Past, ops: Backend) -> Tensor:
        """One segment at the end of its sequence."""
        q, start = heads.q, past.length - len(heads.q)
        count = min(max(self._dense - start, 0), len(q))  # dense queries come first
        parts = []
        if count > 0 or len(q) == 0:
            parts.append(ops.attend(q[:count], *past.first(start + count, q.dtype)))
        if count < len(q):
            scorer = Scorer(heads.choosing_q[count:], past.compressed())
            parts.append(
                ops.attend_sparse(q[count:], past.k, past.v, scorer, self.infllm.sparse, rows=past.rows)
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _compress(self, ops: Backend) -> Callable[[Tensor], Tensor]:
        return partial(ops.compress, sparse=self.infllm.sparse)


def _past(store: SparseStore | BlockedSparseStore, rows: Rows) -> _Past:
    """What is stored at `rows`; scattered rows are left to be gathered by who knows which are needed."""
    compressed = partial(store.read_compressed, rows)
    if isinstance(rows, slice) or isinstance(store, BlockedSparseStore):
        return _Past(*store.read(rows), None, compressed)
    return _Past(store.k, store.v, rows, compressed)
