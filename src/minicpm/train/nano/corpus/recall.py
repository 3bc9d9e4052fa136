"""Dense practice of copying: texts said again, and lists of keys whose values are asked for in another order.

A chat about a document learns a handful of tokens in hundreds. Here every second token is one that can only be
found by looking back, which is what teaches a small model to look.
"""

from __future__ import annotations

from random import Random

from minicpm.train.nano.corpus import retrieval
from minicpm.train.nano.corpus.heldout import draw
from minicpm.train.nano.corpus.words import (
    ITEMS,
    WORDS,
    ZH_ITEMS,
    ZH_WORDS,
    digits,
    invented_word,
    odd_word,
    person,
    zh_odd_word,
    zh_person,
)
from minicpm.train.nano.sample import Sample, document

_SEPARATORS = (" ", ", ", "; ", "\n", " / ")
_LINKS = (":", " is", " has", " gets")
_DRESSES = (("", ""), ("", ""), ('"', '"'), ('"', '"'), ("'", "'"), ("- ", ""), ("(", ")"))
_ZH_LINKS = ("：", "是", "=", "有")


def _unit(rng: Random, zh: bool) -> str:
    style = rng.random()
    if style < 0.25:
        return digits(rng)
    if style < 0.45:
        return zh_odd_word(rng) if zh else _cased(rng, odd_word(rng))
    if style < 0.6:
        return draw(rng, zh_person if zh else person, False)
    if style < 0.85:
        return rng.choice((ZH_WORDS + ZH_ITEMS) if zh else (WORDS + ITEMS))
    return invented_word(rng)


def _cased(rng: Random, word: str) -> str:
    return word.capitalize() if rng.random() < 0.5 else word


def _units(rng: Random, zh: bool, tokens: float) -> list[str]:
    units, cost = [], 0.0
    while cost < tokens:
        units.append(_unit(rng, zh))
        cost += retrieval.cost(units[-1]) + 1
    return units


def copying(rng: Random, tokens: int) -> Sample:
    """A list of random items, then the same again, or stretches of it, each learned after its first item.

    Said again, the items may be quoted or set apart otherwise: a word is other tokens after a quote than after
    a space.
    """
    zh = rng.random() < 0.35
    units = _units(rng, zh, tokens / 3)
    pieces = [(rng.choice(_SEPARATORS).join(units) + "\n", False)]
    left = len(units)
    while left > 0:
        start = 0 if rng.random() < 0.4 else rng.randrange(len(units))
        length = len(units) if start == 0 else rng.randint(2, max(2, len(units) // 2))
        separator, (before, after) = rng.choice(_SEPARATORS), rng.choice(_DRESSES)
        again = units[start : start + length]
        # What follows the first item is one part, for a quote may share a token with the separator.
        rest = "".join(separator + before + unit + after for unit in again[1:])
        pieces += [(before + again[0], False), (after + rest + "\n", True)]
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
