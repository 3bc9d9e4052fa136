"""Finding a value in a text: lists of keys and values, and needle sentences among filler."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from minicpm.train.nano.corpus.chat import Exchange, talk
from minicpm.train.nano.corpus.filler import filler
from minicpm.train.nano.corpus.heldout import draw
from minicpm.train.nano.corpus.words import (
    COLOURS,
    WORDS,
    ZH_COLOURS,
    ZH_WORDS,
    digits,
    invented_word,
    odd_word,
    person,
    zh_odd_word,
    zh_person,
)
from minicpm.train.nano.sample import Sample

NUMBERS = (("code", "密码"), ("number", "号码"), ("room", "房间"), ("ticket", "票号"), ("badge", "工号"))
TERMS = (("secret word", "暗号"), ("password", "口令"), ("favourite word", "幸运词"))
MIXED = (("code", "密码"), ("password", "口令"), ("entry", "记录"), ("value", "值"))
LEADS = ("Here is a list.\n", "Read this list.\n", "Remember these lines.\n", "", "List:\n", "Please read:\n")
ZH_LEADS = ("下面是一个列表。\n", "请看列表：\n", "记住这些内容。\n", "", "列表：\n", "请阅读：\n")
TEXT_LEADS = ("Read the text.\n", "Here is a text.\n", "", "Text:\n", "Please read this.\n")
ZH_TEXT_LEADS = ("请读下面的文字。\n", "下面是一段文字。\n", "", "文章：\n")
ASKS = (
    "What is the {f} of {k}?",
    "Tell me the {f} of {k}.",
    "What is {k}'s {f}?",
    "Find the {f} of {k}.",
    "Which {f} does {k} have?",
    "the {f} of {k}?",
    "Please give me the {f} of {k}.",
    "What {f} belongs to {k}?",
)
ZH_ASKS = (
    "{k}的{f}是什么？",
    "{k}的{f}是多少？",
    "请告诉我{k}的{f}。",
    "查一下{k}的{f}。",
    "{k}有什么{f}？",
    "找出{k}的{f}。",
)
LINES = (
    "The {f} of {k} is {v}.",
    "{k}: {v}",
    "{k} = {v}",
    "{k}'s {f}: {v}",
    "{k}'s {f} is {v}.",
    "- {k}: {v}",
)
ZH_LINES = ("{k}的{f}是{v}。", "{k}：{v}", "{k} = {v}", "{k}的{f}：{v}")
NEEDLES = (
    "The {f} of {k} is {v}.",
    "{k}'s {f} is {v}.",
    "Remember: the {f} of {k} is {v}.",
    "By the way, the {f} of {k} is {v}.",
)
ZH_NEEDLES = ("{k}的{f}是{v}。", "请记住：{k}的{f}是{v}。", "顺便说一下，{k}的{f}是{v}。")
# The share of names in training that are cut together from pieces of words: names of the exams hold pieces in
# company that training never shows.
_ODD = 0.3

SMALL, CAPITAL = re.compile("[a-z ]"), re.compile("[A-Z]")


class Entry(NamedTuple):
    """One fact to find."""

    key: str
    field: str
    value: str


def cost(text: str) -> float:
    """About how many nano tokens `text` has: one for all but lower-case letters and spaces, more for a name."""
    small = len(SMALL.sub("", text))
    return small + 0.22 * (len(text) - small) + 0.5 * len(CAPITAL.findall(text))


def _digits(rng: Random, zh: bool) -> str:
    return digits(rng)


def _term(rng: Random, zh: bool) -> str:
    if rng.random() < 0.6:
        return rng.choice((ZH_WORDS + ZH_COLOURS) if zh else (WORDS + COLOURS))
    return zh_person(rng)[-2:] + rng.choice("龙风云山水") if zh else invented_word(rng).capitalize()


def _mixed(rng: Random, zh: bool) -> str:
    return digits(rng) if rng.random() < 0.5 else _term(rng, zh)


class Field(NamedTuple):
    """What is noted of somebody, and how its values are made."""

    name: str
    make: Callable[[Random, bool], str]


def field(rng: Random, zh: bool) -> Field:
    """Mostly numbers, sometimes words or both."""
    names, make = rng.choices(((NUMBERS, _digits), (TERMS, _term), (MIXED, _mixed)), (5, 2, 2))[0]
    return Field(rng.choice(names)[zh], make)


def _key(rng: Random, zh: bool, held: bool) -> str:
    if not held and rng.random() < _ODD:
        return draw(rng, zh_odd_word if zh else _odd_name, False)
    return draw(rng, zh_person if zh else person, held)


def _odd_name(rng: Random) -> str:
    return odd_word(rng).capitalize()


def entries(rng: Random, zh: bool, count: int, held: bool, common: Field | None) -> list[Entry]:
    """`count` facts with distinct keys; one field for all when it is given."""
    keys: dict[str, None] = {}
    while len(keys) < count:
        keys[_key(rng, zh, held)] = None
    fields = [common or field(rng, zh) for _ in keys]
    return [Entry(key, each.name, each.make(rng, zh)) for key, each in zip(keys, fields, strict=True)]


def key_values(rng: Random, zh: bool, tokens: float, held: bool = False) -> tuple[str, list[Entry]]:
    """A list of about `tokens` tokens and its facts."""
    common = field(rng, zh)
    line = rng.choice(ZH_LINES if zh else LINES)
    lead = rng.choice(ZH_LEADS if zh else LEADS)
    each = cost(line.format(k="李小明" if zh else "Marina", f=common.name, v="4821")) + 1
    facts = entries(rng, zh, max(2, round(tokens / each)), held, common)
    return lead + "\n".join(line.format(k=e.key, f=e.field, v=e.value) for e in facts), facts


def needles(rng: Random, zh: bool, tokens: float, held: bool = False) -> tuple[str, list[Entry]]:
    """Filler sentences of about `tokens` tokens with one to six facts among them."""
    facts = entries(rng, zh, rng.randint(1, 3) if tokens < 150 else rng.randint(2, 6), held, None)
    styles = ZH_NEEDLES if zh else NEEDLES
    planted = [rng.choice(styles).format(k=e.key, f=e.field, v=e.value) for e in facts]
    left, sentences = tokens - sum(map(cost, planted)), []
    while left > 0:
        sentences.append(filler(rng, zh))
        left -= cost(sentences[-1]) + 0.3
    for sentence in planted:
        sentences.insert(rng.randint(0, len(sentences)), sentence)
    return rng.choice(ZH_TEXT_LEADS if zh else TEXT_LEADS) + ("" if zh else " ").join(sentences), facts


def exchange(rng: Random, fact: Entry, zh: bool, known: bool = True) -> Exchange:
    """A question about one fact; `known` False asks for what the text does not hold."""
    question = rng.choice(ZH_ASKS if zh else ASKS).format(f=fact.field, k=fact.key)
    name = f"{fact.key}的{fact.field}" if zh else f"the {fact.field} of {fact.key}"
    if not known:
        return Exchange(
            question,
            "文中没有提到。" if zh else "The text does not say.",
            f"找{name}，没有找到。" if zh else f"I look for {name}. It is not there.",
        )
    answer = f"{name}是{fact.value}。" if zh else f"The{name[3:]} is {fact.value}."
    return Exchange(
        question, answer, f"找{name}：{fact.value}。" if zh else f"I look for {name}: {fact.value}."
    )


def _owner(fact: Entry, zh: bool) -> Exchange:
    if zh:
        return Exchange(
            f"谁的{fact.field}是{fact.value}？",
            f"{fact.key}的{fact.field}是{fact.value}。",
            f"找{fact.value}：{fact.key}。",
        )
    return Exchange(
        f"Whose {fact.field} is {fact.value}?",
        f"The {fact.field} of {fact.key} is {fact.value}.",
        f"I look for {fact.value}: {fact.key}.",
    )


def _questions(rng: Random, facts: list[Entry], zh: bool, count: int) -> list[Exchange]:
    names = {fact.key for fact in facts}
    unique = {fact.value for fact in facts if sum(f.value == fact.value for f in facts) == 1}
    turns = []
    for fact in rng.sample(facts, min(count, len(facts))):
        style = rng.random()
        if style < 0.07 and (stranger := _key(rng, zh, False)) not in names:
            turns.append(exchange(rng, fact._replace(key=stranger), zh, known=False))
        elif style < 0.15 and fact.value in unique:
            turns.append(_owner(fact, zh))
        else:
            turns.append(exchange(rng, fact, zh))
    return turns


def retrieval(rng: Random, tokens: int) -> Sample:
    """A document and several questions, about `tokens` tokens together."""
    zh, listed = rng.random() < 0.35, rng.random() < 0.6
    count = rng.randint(1, 12) if tokens > 500 else rng.randint(2, 8)
    room = max(40.0, tokens - 30.0 * count)
    text, facts = (key_values if listed else needles)(rng, zh, room)
    turns = _questions(rng, facts, zh, count)
    joint = rng.choice(("\n", "\n\n"))
    first = turns[0].question
    lead = f"{first}{joint}{text}" if rng.random() < 0.1 else f"{text}{joint}{first}"
    return talk(rng, "retrieval", [turns[0]._replace(question=lead), *turns[1:]], on=0.4)
