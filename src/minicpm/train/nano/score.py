"""Examines a chat model on nano's held-out sets."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from minicpm.text.chat import ChatModel
from minicpm.text.events import Event, ReasoningDelta, TextDelta, ToolCall
from minicpm.train.nano.exams import EXAMS, Exam, Item, exam

# Answers asked for at once; a model that batches answers them together.
_TOGETHER = 32
_LONGEST_ANSWER = 256

TARGETS: dict[Exam, float] = {
    "arithmetic_thinking": 0.95,
    "arithmetic_direct": 0.80,
    "retrieval_1k": 0.90,
    "retrieval_2k": 0.90,
    "tool_calls": 0.85,
    "smalltalk": 0.90,
    "facts": 0.90,
    "unknown": 0.90,
    "thinking_on": 1.0,
    "thinking_off": 1.0,
}


@dataclass(frozen=True, slots=True)
class Mark:
    """How many questions of one exam were answered right."""

    exam: Exam
    right: int
    total: int

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.right / self.total


@dataclass(frozen=True, slots=True)
class Written:
    """One answer, taken apart."""

    reasoning: str
    text: str
    calls: tuple[ToolCall, ...]

    @property
    def raw(self) -> str:
        """As the model wrote it after its prompt, which had opened the thought."""
        said = self.text + "".join(call.raw for call in self.calls)
        return f"{self.reasoning}</think>{said}" if self.reasoning and said else self.reasoning or said


def examine(
    chat: ChatModel, *, count: int = 200, seed: int = 0, exams: Iterable[Exam] = tuple(EXAMS)
) -> Iterator[Mark]:
    """The exams in turn, `count` questions each, answered greedily."""
    for name in exams:
        items = exam(name, seed, count)
        answers = _answers(chat, items)
        right = sum(is_right(item, answer) for item, answer in zip(items, answers, strict=True))
        yield Mark(name, right, len(items))


def is_right(item: Item, answer: Written) -> bool:
    """Whether an answer passes its question's own check."""
    calls = [(call.name, json.loads(call.arguments)) for call in answer.calls]
    return item.check(answer.raw if item.raw else answer.text, calls)


def _answers(chat: ChatModel, items: Iterable[Item]) -> Iterator[Written]:
    waiting = iter(items)
    while group := list(islice(waiting, _TOGETHER)):
        yield from map(_collect, [_ask(chat, item) for item in group])


def _ask(chat: ChatModel, item: Item) -> Iterator[Event]:
    return chat.chat(
        item.messages,  # type: ignore[arg-type]  # exam messages are plain dicts of the Message shape
        tools=item.tools or None,
        thinking=item.thinking,
        temperature=0.0,
        max_tokens=_LONGEST_ANSWER,
    )


def _collect(events: Iterator[Event]) -> Written:
    reasoning, text, calls = [], [], []
    for event in events:
        match event:
            case ReasoningDelta():
                reasoning.append(event.text)
            case TextDelta():
                text.append(event.text)
            case ToolCall():
                calls.append(event)
    return Written("".join(reasoning), "".join(text), tuple(calls))
