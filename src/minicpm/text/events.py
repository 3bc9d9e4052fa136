"""The events of an answer, as they come out of a chat model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

EndReason: TypeAlias = Literal["stop", "length", "tool_calls", "abort", "error"]


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer itself; a call that could not be read arrives here as raw text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One complete, valid call.

    `arguments` is the text of a JSON object; `raw` is what the model wrote for this call.
    """

    id: str
    name: str
    arguments: str
    raw: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer; `cached_tokens` is the part of the prompt that was not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent on the prompt and on the answer."""

    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class End:
    """The last event of every answer."""

    reason: EndReason
    usage: Usage = field(default_factory=Usage)
    timings: Timings | None = None


Delta: TypeAlias = ReasoningDelta | TextDelta | ToolCall
Event: TypeAlias = Delta | End
