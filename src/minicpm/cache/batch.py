"""What one forward computes: packed tokens of any number of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from minicpm.cache.cache import Cache


@dataclass(frozen=True, slots=True)
class Segment:
    """`count` consecutive tokens of one sequence, the first at position `start`.

    `seq` is a handle of the batch's cache, or None when nothing is to be remembered; `adapter` names the
    adapter its rows are computed with, if any, which must be the same for all of a sequence.
    """

    seq: int | None
    start: int
    count: int
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids [T] int64 of all segments in order, and the cache they extend, if any.

    `rows` [R] int64 names the tokens whose hidden states are wanted, all of them when it is None.
    `embedded` [T, D] is what the first layer reads; None stands for the embeddings of the ids.
    With a cache every segment starts where its sequence ends, and room was reserved for it.
    Training, prefill, decode, verification and scoring are all this one call.
    """

    ids: Tensor
    segments: tuple[Segment, ...]
    cache: Cache | None = None
    rows: Tensor | None = None
    embedded: Tensor | None = None

    def __post_init__(self) -> None:
        total = sum(segment.count for segment in self.segments)
        assert total == self.ids.shape[0], f"segments count {total} tokens, ids hold {self.ids.shape[0]}"

    @classmethod
    def of_sequences(cls, *sequences: Tensor) -> Batch:
        """Separate fresh sequences of ids, packed, without a cache."""
        return cls(torch.cat(sequences), tuple(Segment(None, 0, len(ids)) for ids in sequences))

    @property
    def wanted(self) -> int:
        """How many hidden states a forward gives."""
        return len(self.ids if self.rows is None else self.rows)

    @property
    def positions(self) -> Tensor:
        """Position of every token in its sequence, [T] int64."""
        device = self.ids.device
        return torch.cat([torch.arange(s.start, s.start + s.count, device=device) for s in self.segments])
