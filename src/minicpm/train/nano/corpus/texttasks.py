"""Small operations on words and lists: repeat, count, sort, first and last, case, yes or no."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from minicpm.train.nano.corpus import arithmetic, scratchpad
from minicpm.train.nano.corpus.chat import Exchange, talk
from minicpm.train.nano.corpus.words import (
    COLOURS,
    ITEMS,
    WORDS,
    ZH_COLOURS,
    ZH_ITEMS,
    ZH_WORDS,
    digits,
    invented_word,
    zh_person,
)
from minicpm.train.nano.sample import Sample


def _words(rng: Random, zh: bool, count: int) -> list[str]:
    return rng.sample((ZH_ITEMS + ZH_WORDS + ZH_COLOURS) if zh else (ITEMS + WORDS + COLOURS), count)


def repeat(rng: Random, zh: bool) -> Exchange:
    """Say it again, known or invented."""
    style = rng.random()
    made = zh_person(rng) if zh else invented_word(rng)
    text = (
        made
        if style < 0.3
        else digits(rng, 3, 8)
        if style < 0.5
        else ("" if zh else " ").join(_words(rng, zh, rng.randint(1, 5)))
    )
    ask = rng.choice(
        ("重复：{x}", "请跟我说：{x}", "请说“{x}”。", "照着写：{x}")
        if zh
        else ("Repeat: {x}", "Repeat after me: {x}", "Say {x}.", "Please say this: {x}")
    )
    return Exchange(ask.format(x=text), text, "我来重复。" if zh else "I repeat it.")


def listing(rng: Random, zh: bool) -> Exchange:
    """First, last, or number of the items of a list."""
    words = _words(rng, zh, rng.randint(2, 6))
    text = ("、" if zh else ", ").join(words)
    kind = rng.choice(("first", "last", "count"))
    if kind == "count":
        ask = rng.choice(
            ("有几个词：{x}？", "数一数：{x}", "{x}，一共几个？")
            if zh
            else ("How many words: {x}?", "Count the items: {x}", "How many items are in this list? {x}")
        )
        return Exchange(
            ask.format(x=text),
            f"{len(words)}个。" if zh else f"There are {len(words)}.",
            " ".join(f"{n}{w}" for n, w in enumerate(words, 1))
            if zh
            else ", ".join(f"{n} {w}" for n, w in enumerate(words, 1)),
        )
    which = ("第一个" if kind == "first" else "最后一个") if zh else kind
    word = words[0] if kind == "first" else words[-1]
    ask = rng.choice(
        (f"{{x}}中{which}是什么？", f"说出{which}：{{x}}")
        if zh
        else (
            f"What is the {which} word? {{x}}",
            f"Give me the {which} item: {{x}}",
            f"Which word is {which}: {{x}}?",
        )
    )
    return Exchange(ask.format(x=text), word, f"{which}是{word}。" if zh else f"The {which} one is {word}.")


def order(rng: Random, zh: bool) -> Exchange:
    """Sort three to five numbers."""
    numbers = rng.sample(range(10, 100) if rng.random() < 0.7 else range(1, 10), rng.randint(3, 5))
    ask = rng.choice(
        ("从小到大排列：{x}", "排序：{x}", "把这些数从小到大排：{x}")
        if zh
        else ("Sort these numbers: {x}", "Sort: {x}", "Put in order: {x}", "Order from small to large: {x}")
    )
    answer = ", ".join(map(str, sorted(numbers)))
    note = (
        f"最小的是{min(numbers)}。"
        if zh
        else f"The smallest is {min(numbers)}, the largest is {max(numbers)}."
    )
    return Exchange(ask.format(x=", ".join(map(str, numbers))), answer, note)


def case(rng: Random, zh: bool) -> Exchange:
    """Upper case, letters, or a short word backwards."""
    word = rng.choice([w for w in ITEMS + COLOURS if len(w) <= 5])
    kind = rng.choice(("upper", "spell", "back"))
    asks = {
        "upper": ("Write {x} in upper case.", "{x}用大写怎么写？"),
        "spell": ("Spell {x}.", "拼写{x}。"),
        "back": ("Write {x} backwards.", "把{x}倒过来写。"),
    }
    answers = {"upper": word.upper(), "spell": "-".join(word.upper()), "back": "-".join(word.upper()[::-1])}
    return Exchange(asks[kind][zh].format(x=word), answers[kind], "-".join(word.upper()) + ".")


def yes_no(rng: Random, zh: bool) -> Exchange:
    """Is one number larger than the other."""
    width = rng.choice((1, 2, 3))
    a, b = arithmetic.pair(rng, (width, width))
    if a == b:
        return yes_no(rng, zh)
    ask = rng.choice(
        ("{a}比{b}大吗？", "{a}大于{b}吗？")
        if zh
        else ("Is {a} larger than {b}?", "Is {a} bigger than {b}?", "Is {a} more than {b}?")
    )
    answer = ("是的。" if a > b else "不是。") if zh else ("Yes." if a > b else "No.")
    return Exchange(ask.format(a=a, b=b), answer, scratchpad.compare(a, b))


TASKS: tuple[Callable[[Random, bool], Exchange], ...] = (
    repeat,
    repeat,
    listing,
    listing,
    order,
    case,
    yes_no,
)


def texttasks(rng: Random) -> Sample:
    """One to three tasks in a conversation."""
    zh = rng.random() < 0.4
    return talk(rng, "texttasks", [rng.choice(TASKS)(rng, zh) for _ in range(rng.choice((1, 2, 3)))])
