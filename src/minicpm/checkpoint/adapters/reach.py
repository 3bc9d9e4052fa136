"""Finds projections that a model computes without calling them on the rows of the batch.

A prepared model may fold a projection into others or apply it to what a cache holds. An update that nobody
asks for would be lost in silence, so it is looked for before an adapter is taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from minicpm.cache import Batch, Cache, Segment
from minicpm.layers.lora import AdaptedLinear, Update
from minicpm.models.decoder import Decoder
from minicpm.ops.rows import row_multiple

_WITNESS = "(witness)"
_FRESH, _FIRST, _NEXT = 5, 9, 1  # tokens of a pass without a cache, of a cached prompt and of its next step


class _Witness(Update):
    """Notes how many rows a projection is called with, or that its weight was asked for; changes nothing."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.merges = False

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        self.rows.append(len(x))
        return out

    def merged(self, weight: Tensor) -> Tensor:
        self.merges = True
        return weight.float()

    def seen(self, counts: Sequence[int]) -> bool:
        """True when a forward called the projection once, on so many rows, or used its weight."""
        return self.merges or self.rows in [[count] for count in counts]


@torch.no_grad()
def unreached(decoder: Decoder, projections: Mapping[str, AdaptedLinear]) -> list[str]:
    """Names of projections that are not called once, on the batch's rows, in each kind of forward."""
    cache = decoder.new_cache(1)
    seq = cache.open()
    missed: set[str] = set()
    for count, kept in ((_FRESH, None), (_FIRST, cache), (_NEXT, cache)):
        with _watched(decoder, projections) as witnesses:
            _run(decoder, count, kept, seq)
        padded = count + -count % row_multiple(decoder.dtype, decoder.device)
        missed |= {name for name, witness in witnesses.items() if not witness.seen((count, padded))}
    return sorted(missed)


def _run(decoder: Decoder, count: int, cache: Cache | None, seq: int) -> None:
    """A forward of so many tokens with the witness, continuing the cache's sequence if there is a cache."""
    start = 0 if cache is None else cache.length(seq)
    if cache is not None:
        assert cache.reserve(seq, count)
    ids = torch.arange(count, device=decoder.device) % decoder.config.vocab
    decoder(Batch(ids, (Segment(None if cache is None else seq, start, count, _WITNESS),), cache))


@contextmanager
def _watched(decoder: Decoder, projections: Mapping[str, AdaptedLinear]) -> Iterator[Mapping[str, _Witness]]:
    witnesses = {name: _Witness() for name in projections}
    decoder.adapters.names.add(_WITNESS)
    for name, projection in projections.items():
        projection.updates[_WITNESS] = witnesses[name]
    try:
        yield witnesses
    finally:
        decoder.adapters.names.discard(_WITNESS)
        for projection in projections.values():
            del projection.updates[_WITNESS]
            projection.merged.pop(_WITNESS, None)
