"""Mixtures of the skills by share of tokens, cut into shards that depend on nothing but seed and index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from random import Random

from minicpm.train.nano.corpus import (
    arithmetic,
    facts,
    natural,
    recall,
    retrieval,
    smalltalk,
    texttasks,
    tools,
    unknown,
)
from minicpm.train.nano.sample import Sample

SHARD = 2000
# Shares of tokens, not of samples.
STABLE: Mapping[str, float] = {
    "drill": 0.10, "scratch": 0.04, "arithmetic": 0.13, "copying": 0.09, "recall": 0.14, "retrieval": 0.13,
    "tools": 0.20, "smalltalk": 0.04, "facts": 0.05, "unknown": 0.03, "texttasks": 0.03, "natural": 0.02,
}  # fmt: skip
LONG: Mapping[str, float] = {
    "drill": 0.07, "scratch": 0.05, "arithmetic": 0.16, "copying": 0.09, "recall": 0.06, "long_recall": 0.08,
    "retrieval": 0.04, "long": 0.12, "tools": 0.24, "smalltalk": 0.03, "facts": 0.03, "unknown": 0.02,
    "texttasks": 0.01,
}  # fmt: skip
CHAT: Mapping[str, float] = {
    "drill": 0.04, "scratch": 0.04, "arithmetic": 0.18, "copying": 0.03, "recall": 0.01, "long_recall": 0.04,
    "retrieval": 0.04, "long": 0.13, "tools": 0.32, "smalltalk": 0.05, "facts": 0.06, "unknown": 0.04,
    "texttasks": 0.02,
}  # fmt: skip


def makers(source: natural.Natural | None) -> dict[str, Callable[[Random], Sample]]:
    """The generator of every skill."""
    table: dict[str, Callable[[Random], Sample]] = {
        "drill": arithmetic.drill,
        "scratch": arithmetic.scratch_drill,
        "arithmetic": arithmetic.chat,
        "retrieval": lambda rng: retrieval.retrieval(rng, rng.randint(64, 400)),
        "long": lambda rng: retrieval.retrieval(rng, rng.randint(800, 1840)),
        "copying": lambda rng: recall.copying(rng, rng.randint(40, 300)),
        "recall": lambda rng: recall.recall(rng, rng.randint(60, 500)),
        "long_recall": lambda rng: recall.recall(rng, rng.randint(700, 1750)),
        "tools": tools.tools,
        "smalltalk": smalltalk.smalltalk,
        "facts": facts.facts,
        "unknown": lambda rng: unknown.unknown(rng, source),
        "texttasks": texttasks.texttasks,
    }
    if source is not None and source.pairs:
        table["natural"] = lambda rng: natural.natural(rng, source)
    return table


def shard(
    seed: int,
    index: int,
    mix: Mapping[str, float],
    *,
    corpus: Path | None = None,
    size: int = SHARD,
) -> list[Sample]:
    """The samples of one shard, in random order: a pure function of its arguments and the corpus files.

    Every next sample comes from the skill that is furthest behind its share. Without a corpus folder the share of
    "natural" goes to the others.
    """
    rng = Random(f"nano/{seed}/{index}")
    table = makers(natural.load(corpus))
    owed = {skill: weight for skill, weight in mix.items() if weight > 0 and skill in table}
    spent = {skill: rng.random() * 300 / weight for skill, weight in owed.items()}
    samples = []
    for _ in range(size):
        skill = min(spent, key=spent.__getitem__)
        samples.append(table[skill](rng))
        spent[skill] += sum(retrieval.cost(part.text) for part in samples[-1].parts) / owed[skill]
    rng.shuffle(samples)
    return samples


def stream(
    seed: int, mix: Mapping[str, float], *, corpus: Path | None = None, start: int = 0
) -> Iterator[Sample]:
    """All shards from number `start` on, without end."""
    for index in count(start):
        yield from shard(seed, index, mix, corpus=corpus)
