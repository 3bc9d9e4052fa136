"""Small builders that every skill uses: turns, and the choice of the thinking mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from minicpm.train.nano.sample import Sample, Thinking, chat_sample

SYSTEM = (
    "You are a helpful assistant.", "You are nano.", "Answer briefly.", "You are a friendly assistant.",
    "You are nano, a tiny demo model.", "Be kind and short.", "你是一个有用的助手。", "请简短回答。", "你是nano。",
    "You are a helpful assistant. Use the functions when they fit.", "You are a chatbot.", "Be helpful.",
)  # fmt: skip


class Exchange(NamedTuple):
    """One question with its answer and the thought that leads there."""

    question: str
    answer: str
    thought: str


def user(text: str) -> dict[str, Any]:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: str, thought: str = "") -> dict[str, Any]:
    """An assistant message with its thought, which only the last turn shows."""
    return {"role": "assistant", "content": text, "thought": thought}


def mode(rng: Random, on: float = 0.5) -> Thinking:
    """Thinking on with probability `on`."""
    return "on" if rng.random() < on else "off"


def instructed(rng: Random, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages, sometimes after a system message that changes nothing."""
    return [{"role": "system", "content": rng.choice(SYSTEM)}, *messages] if rng.random() < 0.12 else messages


def messages_of(exchanges: Iterable[Exchange]) -> list[dict[str, Any]]:
    """Question and answer turns in order."""
    return [turn for q, a, t in exchanges for turn in (user(q), assistant(a, t))]


def talk(
    rng: Random,
    kind: str,
    exchanges: Sequence[Exchange],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    on: float = 0.5,
) -> Sample:
    """A conversation of these exchanges as a sample in a random thinking mode."""
    return chat_sample(kind, instructed(rng, messages_of(exchanges)), tools=tools, thinking=mode(rng, on))
