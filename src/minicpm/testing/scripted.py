"""A chat model that replays answers it was given, for tests of everything built on chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

from minicpm.text.chat import Message, Thinking, Tool
from minicpm.text.events import End, Event, TextDelta, ToolCall

Answer: TypeAlias = str | Sequence[Event]


@dataclass(frozen=True)
class RecordedCall:
    """What one `chat` was asked; a deep copy, so later changes by the caller do not show."""

    messages: list[Message]
    tools: list[Tool] | None
    thinking: Thinking
    sampling: Mapping[str, Any]


class ScriptedChat:
    """Implements `ChatModel` with one prepared answer per call.

    An answer is the text itself, or the list of events to replay; a missing `End` is added.
    `calls` records every call in order. A call beyond the last answer raises IndexError.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = [_events(answer) for answer in answers]
        self.calls: list[RecordedCall] = []

    @property
    def remaining(self) -> int:
        """How many answers have not been asked for."""
        return len(self._answers) - len(self.calls)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        **sampling: Any,
    ) -> Iterator[Event]:
        """Records the call now and replays its answer as it is read."""
        if not self.remaining:
            raise IndexError(
                f"ScriptedChat was asked {len(self.calls) + 1} times for {len(self._answers)} answers"
            )
        copied_tools = None if tools is None else deepcopy(list(tools))
        self.calls.append(RecordedCall(deepcopy(list(messages)), copied_tools, thinking, dict(sampling)))
        return iter(self._answers[len(self.calls) - 1])


def _events(answer: Answer) -> list[Event]:
    events: list[Event] = [TextDelta(answer)] if isinstance(answer, str) else list(answer)
    if not events or not isinstance(events[-1], End):
        called = any(isinstance(event, ToolCall) for event in events)
        events.append(End("tool_calls" if called else "stop"))
    return events
