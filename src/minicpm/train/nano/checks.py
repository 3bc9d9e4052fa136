"""What counts as right in nano's exams, as functions of the answer and of the parsed calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Calls = list[tuple[str, dict[str, Any]]]
Check = Callable[[str, Calls], bool]
HONEST = ("tiny demo model", "很小的演示模型")


def ends_with_number(number: int) -> Check:
    """The last integer of the answer is `number`."""
    return lambda answer, calls: re.findall(r"-?\d+", answer)[-1:] == [str(number)]


def contains(text: str) -> Check:
    """The answer holds `text`, whatever the case."""
    return lambda answer, calls: text.lower() in answer.lower()


def contains_whole(value: str) -> Check:
    """The answer holds the value as a whole: no digit or Latin letter goes on around it."""
    pattern = re.compile(rf"(?<![0-9A-Za-z]){re.escape(value)}(?![0-9A-Za-z])", re.IGNORECASE)
    return lambda answer, calls: pattern.search(answer) is not None


def one_of(answers: tuple[str, ...]) -> Check:
    """The answer is one of these, word for word."""
    return lambda answer, calls: answer.strip() in answers


def honest(answer: str, calls: Calls) -> bool:
    """The answer says what nano is."""
    return any(words in answer for words in HONEST)


def calls_exactly(name: str, arguments: dict[str, Any]) -> Check:
    """There is one call, with this name and these arguments, equal in value and in type."""

    def typed(values: dict[str, Any]) -> dict[str, Any]:
        return {key: (type(value), value) for key, value in values.items()}

    return lambda answer, calls: [(n, typed(a)) for n, a in calls] == [(name, typed(arguments))]


def thought_first(raw: str, calls: Calls) -> bool:
    """A thought, one closing token, an answer."""
    thought, closed, answer = raw.removesuffix("<|im_end|>").partition("</think>")
    complete = bool(closed and thought.strip() and answer.strip())
    return complete and "<think>" not in raw and "</think>" not in answer


def no_thought(raw: str, calls: Calls) -> bool:
    """An answer without any thinking token."""
    return bool(raw.removesuffix("<|im_end|>").strip()) and "<think>" not in raw and "</think>" not in raw
