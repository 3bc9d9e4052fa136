"""Packs encoded samples into batches of about the same number of tokens."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.cache import Batch, Segment

IGNORE = -100
# Lengths are rounded up to this, so that samples of like length share one attention call.
_ROUND = 16


class Encoded(NamedTuple):
    """Token ids of one sample, and which of them the loss is taken on."""

    ids: Sequence[int]
    learn: Sequence[bool]


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """Packed inputs, of which the rows that count are wanted, and for each of these the id that follows.

    targets [R] int64; tokens counts the unpadded ones.
    """

    batch: Batch
    targets: Tensor
    tokens: int


def pack(samples: Iterable[Encoded], tokens: int, *, longest: int, seed: int) -> Iterator[TrainBatch]:
    """All samples, shuffled by `seed`, in batches of at most `tokens` padded tokens.

    Samples longer than `longest` are left out; at least one sample goes into a batch.
    """
    order = [s for s in samples if 2 <= len(s.ids) <= longest]
    random.Random(seed).shuffle(order)
    chosen: list[Encoded] = []
    size = 0
    for sample in order:
        padded = _padded(len(sample.ids))
        if chosen and size + padded > tokens:
            yield _collate(chosen)
            chosen, size = [], 0
        chosen.append(sample)
        size += padded
    if chosen:
        yield _collate(chosen)


def _padded(length: int) -> int:
    return -(-length // _ROUND) * _ROUND


def _collate(samples: list[Encoded]) -> TrainBatch:
    # Sorted, so that equal lengths stand side by side and attend in one call.
    samples = sorted(samples, key=lambda sample: _padded(len(sample.ids)))
    ids: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    segments: list[Segment] = []
    for sample in samples:
        base, padded = len(ids), _padded(len(sample.ids))
        follows = [i for i in range(1, len(sample.ids)) if sample.learn[i]]
        rows += [base + i - 1 for i in follows]
        targets += [sample.ids[i] for i in follows]
        ids += [*sample.ids, *[0] * (padded - len(sample.ids))]
        segments.append(Segment(None, 0, padded))
    wanted = torch.tensor(rows, dtype=torch.int64)
    batch = Batch(torch.tensor(ids), tuple(segments), rows=wanted)
    return TrainBatch(batch, torch.tensor(targets), sum(len(s.ids) for s in samples))
