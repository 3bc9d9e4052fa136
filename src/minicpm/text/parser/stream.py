"""Splits an answer that arrives in pieces into content, reasoning and tool calls."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minicpm.errors import TemplateError
from minicpm.text.events import Delta, EndReason, ReasoningDelta, TextDelta
from minicpm.text.parser.answer import Answer, Dialect
from minicpm.text.parser.binding import Binder
from minicpm.text.parser.py_block import PythonBlock
from minicpm.text.parser.sections import Section
from minicpm.text.parser.xml_call import XmlCall

DIALECTS = ("none", "py-call", "xml-fn")
_CLOSINGS = {"<think>": "</think>", "<|thought_start|>": "<|thought_end|>"}


class StreamParser:
    """Fed with decoded text, gives deltas and calls; the same whatever way the text is cut.

    A call is emitted when it is complete and valid; what is no valid call stays text, so nothing is lost but
    the markers and the line breaks that frame them. Time is linear; text is held back for at most a marker,
    and inside a call until that call ends. No input makes it raise.
    """

    def __init__(
        self,
        dialect: str,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        opened_by: str | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """`tools` are checked ones; without any, no call is looked for.

        `opened_by` is the thought marker that the prompt ended with, if any.
        """
        make_id = new_id or _new_id
        answer = Answer(_dialect(dialect, tools, make_id))
        closing = None if opened_by is None else _CLOSINGS[opened_by]
        self._section: Section = answer.content() if closing is None else answer.reasoning(closing)
        self._answer = answer
        self._held = ""
        self.examined = 0
        """Characters looked at so far, those held back counted again: the measure of work."""

    def push(self, text: str) -> list[Delta]:
        """The events that `text` completes."""
        return self._read(self._held + text, final=False)

    def finish(self, reason: EndReason = "stop") -> list[Delta]:
        """The events of what was held back; `reason` says whether the model itself ended the answer."""
        self._answer.ended = reason in ("stop", "tool_calls")
        return self._read(self._held, final=True)

    def _read(self, data: str, *, final: bool) -> list[Delta]:
        self.examined += len(data)
        events: list[Delta] = []
        position = 0
        section: Section | None = self._section
        while section is not None:
            self._section = section
            step = section.scan(data, position, final)
            events += step.events
            position, section = step.end, step.following
        self._held = data[position:]
        return _joined(events)


def _joined(events: list[Delta]) -> list[Delta]:
    """Neighbouring deltas of one kind become one."""
    joined: list[Delta] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            joined[-1] = ReasoningDelta(last.text + event.text)
        else:
            joined.append(event)
    return joined


def _new_id() -> str:
    return "call_" + secrets.token_hex(12)


def _dialect(name: str, tools: Sequence[Mapping[str, Any]], new_id: Callable[[], str]) -> Dialect:
    if name not in DIALECTS:
        raise TemplateError(f"There is no tool dialect {name!r}. Use one of {', '.join(DIALECTS)}.")
    thoughts = _CLOSINGS if name == "py-call" else {"<think>": _CLOSINGS["<think>"]}
    if not tools or name == "none":
        return Dialect(thoughts)
    if name == "py-call":
        calls = Binder(tools, strict=False)
        return Dialect(
            thoughts,
            "<|tool_call_start|>",
            "<|tool_call_start|>",
            "<|tool_call_end|>",
            lambda then: PythonBlock(calls, new_id, then),
        )
    xml = Binder(tools, strict=True)
    return Dialect(
        thoughts, "<function", "<function name=", "</function>", lambda then: XmlCall(xml, new_id, then)
    )
