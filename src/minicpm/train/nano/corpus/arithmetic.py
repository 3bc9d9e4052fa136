"""Sums, differences, products and comparisons: as chats, and as dense drill documents."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from minicpm.train.nano.corpus import scratchpad
from minicpm.train.nano.corpus.arithmetic_words import (
    ASK_EN,
    ASK_ZH,
    LARGER_EN,
    LARGER_ZH,
    STORY_EN,
    STORY_ZH,
    WORDS_EN,
    WORDS_ZH,
)
from minicpm.train.nano.corpus.chat import Exchange, talk
from minicpm.train.nano.corpus.heldout import held_out_pair
from minicpm.train.nano.corpus.words import ITEMS, NAMES, ZH_ITEMS, ZH_NAMES
from minicpm.train.nano.sample import Sample, document


class Problem(NamedTuple):
    """`a op b`, where op is one of + - ×."""

    a: int
    op: str
    b: int

    @property
    def result(self) -> int:
        """The value of the expression."""
        return {"+": self.a + self.b, "-": self.a - self.b, "×": self.a * self.b}[self.op]

    @property
    def equation(self) -> str:
        """`17 + 25 = 42`."""
        return f"{self.a} {self.op} {self.b} = {self.result}"

    @property
    def work(self) -> str:
        """The thought that finds the result."""
        return {"+": scratchpad.add, "-": scratchpad.subtract, "×": scratchpad.multiply}[self.op](
            self.a, self.b
        )


def _number(rng: Random, width: int) -> int:
    return rng.randint(0, 9) if width == 1 else rng.randint(10 ** (width - 1), 10**width - 1)


def _widths(rng: Random, op: str) -> tuple[int, int]:
    if op == "×":
        return rng.choice(((1, 1), (1, 2), (2, 1), (1, 3), (3, 1)))
    return rng.choice(
        (
            (1, 1),
            (1, 2),
            (2, 1),
            (2, 2),
            (2, 2),
            (2, 2),
            (2, 2),
            (2, 3),
            (3, 2),
            (1, 3),
            (3, 1),
            (3, 3),
            (3, 3),
            (3, 3),
            (3, 3),
        )
    )


def pair(rng: Random, widths: tuple[int, int], held: bool = False) -> tuple[int, int]:
    """Two operands of these digit counts from the asked side of the split."""
    while True:
        a, b = (_number(rng, width) for width in widths)
        if held_out_pair(a, b) == held:
            return a, b


def problem(rng: Random, ops: str = "++++----×") -> Problem:
    """A random problem that is not held out."""
    op = rng.choice(ops)
    a, b = pair(rng, _widths(rng, op))
    return Problem(a, op, b)


def ask(rng: Random, item: Problem, zh: bool) -> str:
    """The problem in one of many phrasings."""
    style = rng.random()
    story = style < 0.12 and item.result >= 0 and item.a > 1 and item.b > 1
    plain, words, stories = (ASK_ZH, WORDS_ZH, STORY_ZH) if zh else (ASK_EN, WORDS_EN, STORY_EN)
    choices = stories[item.op] if story else words[item.op] if style < 0.5 else plain
    return rng.choice(choices).format(
        a=item.a,
        b=item.b,
        e=f"{item.a} {item.op} {item.b}",
        t=f"{item.a}{item.op}{item.b}",
        n=rng.choice(ZH_NAMES if zh else NAMES),
        i=rng.choice(ZH_ITEMS if zh else ITEMS),
    )


def exchange(rng: Random, item: Problem, zh: bool) -> Exchange:
    """A question about `item` with answer and work."""
    return Exchange(ask(rng, item, zh), item.equation + ("。" if zh else "."), item.work)


def comparison(rng: Random, zh: bool) -> Exchange:
    """Which of two numbers is larger."""
    width = rng.choice((1, 2, 2, 3, 3))
    a, b = pair(rng, (width, width))
    if a == b:
        return comparison(rng, zh)
    question = rng.choice(LARGER_ZH if zh else LARGER_EN).format(a=a, b=b)
    answer = f"{max(a, b)} 更大。" if zh else f"{max(a, b)} is larger."
    return Exchange(question, answer, scratchpad.compare(a, b))


def chat(rng: Random) -> Sample:
    """One to four questions; the answers of earlier turns practise the skill without thinking."""
    zh = rng.random() < 0.35
    turns = [
        comparison(rng, zh) if rng.random() < 0.08 else exchange(rng, problem(rng), zh)
        for _ in range(rng.choice((1, 1, 2, 3, 4)))
    ]
    return talk(rng, "arithmetic", turns, on=0.55)


def drill(rng: Random) -> Sample:
    """Lines of `347 + 285 = 632`; only results are learned, since the operands are random."""
    pieces = []
    for _ in range(rng.randint(10, 40)):
        left, right = problem(rng, "+++++-----×").equation.split("= ")
        pieces += [(left + "= ", False), (right + "\n", True)]
    return document("drill", pieces)


def scratch_drill(rng: Random) -> Sample:
    """Lines of `347 + 285: 7+5=12, 2 carry 1; ...; 632.`; the work is learned."""
    pieces = []
    for _ in range(rng.randint(4, 14)):
        item = problem(rng)
        pieces += [(f"{item.a} {item.op} {item.b}:", False), (f" {item.work}\n", True)]
    return document("scratch", pieces)
