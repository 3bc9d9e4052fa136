"""Dense practice of copying: texts said again, and lists of keys whose values are asked for in another order.

A chat about a document learns a handful of tokens in hundreds. Here every second token is one that can only be
found by looking back, which is what teaches a small model to look.
"""

from __future__ import annotations

from random import Random

from minicpm.train.nano.corpus import retrieval
from minicpm.train.nano.corpus.heldout import draw
from minicpm.train.nano.corpus.words import WORDS, ZH_WORDS, digits, invented_word, person, zh_person
from minicpm.train.nano.sample import Sample, document

_SEPARATORS = (" ", ", ", "; ", "\n", " / ")
_LINKS = (":", " is", " has", " gets")
_ZH_LINKS = ("：", "是", "=", "有")


def _unit(rng: Random, zh: bool) -> str:
    style = rng.random()
    if style < 0.3:
        return digits(rng)
    if style < 0.55:
        return draw(rng, zh_person if zh else person, False)
    if style < 0.75:
        return rng.choice(ZH_WORDS if zh else WORDS)
    return invented_word(rng)


def _units(rng: Random, zh: bool, tokens: float) -> list[str]:
    units, cost = [], 0.0
    while cost < tokens:
        units.append(_unit(rng, zh))
        cost += retrieval.cost(units[-1]) + 1
    return units


def copying(rng: Random, tokens: int) -> Sample:
    """A list of random items, then the same again, or stretches of it, each learned after its first item."""
    zh, separator = rng.random() < 0.35, rng.choice(_SEPARATORS)
    units = _units(rng, zh, tokens / 3)
    pieces = [(separator.join(units) + "\n", False)]
    left = len(units)
    while left > 0:
        start = 0 if rng.random() < 0.4 else rng.randrange(len(units))
        length = len(units) if start == 0 else rng.randint(2, max(2, len(units) // 2))
        again = units[start : start + length]
        rest = "".join(separator + unit for unit in again[1:])
        pieces += [(again[0], False), (rest + "\n", True)]
        left -= len(again)
    return document("copying", pieces)


def recall(rng: Random, tokens: int) -> Sample:
    """Keys with values, then the keys in another order; only the values are learned."""
    zh = rng.random() < 0.35
    link = rng.choice(_ZH_LINKS if zh else _LINKS)
    gap = "" if zh else " "
    mixed = rng.random() < 0.3
    facts = retrieval.entries(rng, zh, max(3, round(tokens / 17)), False, None)
    if mixed:
        facts = [fact._replace(value=_unit(rng, zh)) for fact in facts]
    lines = [f"{fact.key}{link}{gap}{fact.value}" for fact in facts]
    pieces = [("\n".join(lines) + "\n\n", False)]
    for fact in rng.sample(facts, len(facts)):
        pieces += [(f"{fact.key}{link}", False), (f"{gap}{fact.value}\n", True)]
    return document("recall", pieces)
