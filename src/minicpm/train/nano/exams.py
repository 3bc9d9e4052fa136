"""Questions that training never showed, one set per promised skill, each with its own check."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from minicpm.train.nano import checks
from minicpm.train.nano.checks import Check
from minicpm.train.nano.corpus import arithmetic, facts, retrieval, smalltalk, tools, unknown
from minicpm.train.nano.corpus.chat import messages_of, user
from minicpm.train.nano.sample import Thinking

Exam = Literal[
    "arithmetic_thinking",
    "arithmetic_direct",
    "retrieval_1k",
    "retrieval_2k",
    "tool_calls",
    "smalltalk",
    "facts",
    "unknown",
    "thinking_on",
    "thinking_off",
]


@dataclass(frozen=True, slots=True)
class Item:
    """One exam question.

    `check(answer, calls)` sees the answer after the thinking and the parsed calls; with `raw` it sees instead
    of the answer all that the model wrote after the generation prompt, special tokens spelled out.
    """

    messages: list[dict[str, Any]]
    check: Check
    thinking: Thinking = "off"
    tools: Sequence[dict[str, Any]] = field(default=())
    raw: bool = False


def _arithmetic(rng: Random, thinking: Thinking) -> Item:
    """A sum or difference of two- and three-digit numbers; no training text holds the pair."""
    widths = rng.choice(((2, 2), (2, 2), (3, 3), (3, 3), (2, 3), (3, 2)))
    a, b = arithmetic.pair(rng, widths, held=True)
    problem = arithmetic.Problem(a, rng.choice("+-"), b)
    return Item(
        [user(arithmetic.ask(rng, problem, rng.random() < 0.3))],
        checks.ends_with_number(problem.result),
        thinking,
    )


def arithmetic_thinking(rng: Random) -> Item:
    """Held out by operand pair: a table learned by heart does not help, the columns must be worked."""
    return _arithmetic(rng, "on")


def arithmetic_direct(rng: Random) -> Item:
    """Held out by operand pair, as with thinking, but the answer must come at once."""
    return _arithmetic(rng, "off")


SMALL, NAME = re.compile("[a-z ]"), re.compile("[A-Z][a-z]*")
WORD, GAP = re.compile("(?<![A-Za-z])[a-z]+"), re.compile(" (?=[A-Z0-9])")


def tokens_of(text: str) -> float:
    """The length of a retrieval text in tokens, within eight percent; fitted, to need no tokenizer."""
    names = NAME.findall(text)
    letters = sum(map(len, names)) - len(names)
    return (
        len(SMALL.sub("", text))
        + 0.40 * letters
        + 0.97 * len(WORD.findall(text))
        + 0.275 * len(GAP.findall(text))
    )


def _retrieval(rng: Random, tokens: int) -> Item:
    zh, make = rng.random() < 0.35, rng.choice((retrieval.key_values, retrieval.needles))
    text, found = make(rng, zh, tokens, held=True)
    while not 0.97 <= tokens_of(text) / tokens <= 1.02:
        text, found = make(rng, zh, tokens * rng.uniform(0.7, 1.3), held=True)
    fact = rng.choice(found)
    asked = retrieval.exchange(rng, fact, zh)
    return Item(
        [user(f"{text}\n\n{asked.question}")], checks.contains_whole(fact.value), rng.choice(("on", "off"))
    )


def retrieval_1k(rng: Random) -> Item:
    """About 1,000 tokens; every key name is from the held-out tenth and every value is drawn afresh."""
    return _retrieval(rng, 970)


def retrieval_2k(rng: Random) -> Item:
    """About 1,900 tokens; every key name is from the held-out tenth and every value is drawn afresh."""
    return _retrieval(rng, 1840)


def tool_calls(rng: Random) -> Item:
    """Every open argument value is from the held-out tenth of its kind; the exact call must come."""
    zh = rng.random() < 0.35
    shown = tools.choose(rng, rng.choice((1, 2, 3, 4, 5)))
    asked = tools.request(rng, rng.choice(shown), zh, held=True)
    return Item(
        [user(asked.text)],
        checks.calls_exactly(asked.shown.name, asked.arguments),
        rng.choice(("on", "off")),
        [s.tool for s in shown],
    )


def small_talk(rng: Random) -> Item:
    """Whole sentences are held out, and the names to remember too; any answer of the intent is right."""
    zh = rng.random() < 0.4
    if rng.random() < 0.25:
        turns = smalltalk.recall(rng, zh, held=True)
        return Item(messages_of(turns)[:-1], checks.contains(turns[-1].answer), rng.choice(("on", "off")))
    intent, text = smalltalk.said(rng, zh, held=True)
    answers = (smalltalk.ZH if zh else smalltalk.EN)[intent].answers
    return Item([user(text)], checks.one_of(answers), rng.choice(("on", "off")))


def known_facts(rng: Random) -> Item:
    """The facts are a closed list that training shows; held out is this question about this fact."""
    fact = rng.choice(facts.TABLE)
    text = facts.question(rng, fact, held=True)
    if text is None:
        return known_facts(rng)
    return Item([user(text)], checks.contains_whole(fact.answer), rng.choice(("on", "off")))


def unknown_things(rng: Random) -> Item:
    """The entity, or the whole question, is from the held-out tenth; the answer must say what nano is."""
    text = unknown.question(rng, rng.random() < 0.4, held=True)
    return Item(
        [user(text)],
        checks.honest,
        rng.choice(("on", "off")),
    )


def _any_question(rng: Random) -> Item:
    return rng.choice((arithmetic_direct, known_facts, small_talk, unknown_things, tool_calls))(rng)


def thinking_on(rng: Random) -> Item:
    """Held-out questions of all skills; the text must be a thought, one closing token, and an answer."""
    item = _any_question(rng)
    return Item(item.messages, checks.thought_first, "on", item.tools, raw=True)


def thinking_off(rng: Random) -> Item:
    """Held-out questions of all skills; the text must be an answer without any thinking token."""
    item = _any_question(rng)
    return Item(item.messages, checks.no_thought, "off", item.tools, raw=True)


EXAMS: dict[Exam, Callable[[Random], Item]] = {
    "arithmetic_thinking": arithmetic_thinking,
    "arithmetic_direct": arithmetic_direct,
    "retrieval_1k": retrieval_1k,
    "retrieval_2k": retrieval_2k,
    "tool_calls": tool_calls,
    "smalltalk": small_talk,
    "facts": known_facts,
    "unknown": unknown_things,
    "thinking_on": thinking_on,
    "thinking_off": thinking_off,
}


def exam(name: Exam, seed: int, count: int) -> list[Item]:
    """`count` questions of one exam, the same for the same seed."""
    rng = Random(f"exam/{name}/{seed}")
    return [EXAMS[name](rng) for _ in range(count)]
