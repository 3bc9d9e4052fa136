"""Endless training batches for each stage of nano, a pure function of seed and stage."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from minicpm.train.batches import Encoded, TrainBatch, pack
from minicpm.train.nano.corpus.mixture import shard
from minicpm.train.nano.encode import encode_samples


@dataclass(frozen=True, slots=True)
class Stage:
    """A named stretch of training: which mixture, how many tokens a step, how long a sample may be."""

    name: str
    mix: Mapping[str, float]
    tokens: int
    longest: int


@dataclass(slots=True)
class Cursor:
    """Where a stage's stream stands: the shard and how many of its batches were used."""

    shard: int = 0
    used: int = 0


def batches(
    tokenizer: Tokenizer, stage: Stage, cursor: Cursor, *, seed: int, corpus: Path | None
) -> Iterator[TrainBatch]:
    """Batches from `cursor` on, which is moved along; resuming from a saved cursor continues exactly."""
    while True:
        for index, batch in enumerate(
            _shard_batches(tokenizer, stage, cursor.shard, seed=seed, corpus=corpus)
        ):
            if index < cursor.used:
                continue
            cursor.used = index + 1
            yield batch
        cursor.shard, cursor.used = cursor.shard + 1, 0


def _shard_batches(
    tokenizer: Tokenizer, stage: Stage, index: int, *, seed: int, corpus: Path | None
) -> Iterator[TrainBatch]:
    samples = shard(seed, index, stage.mix, corpus=corpus)
    encoded = [Encoded(ids, learn) for ids, learn in encode_samples(tokenizer, samples)]
    order = random.Random(f"{seed}/{stage.name}/{index}").getrandbits(32)
    yield from pack(encoded, stage.tokens, longest=stage.longest, seed=order)
