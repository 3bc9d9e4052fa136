"""The two places text can stand in, content and reasoning, and how the markers lead from one to the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from minicpm.text.events import Delta, TextDelta, ToolCall
from minicpm.text.parser.sections import Markers, Newlines, Section, Step, reasoning, text

_LOG = logging.getLogger(__name__)
MAX_HELD = 256 << 10
"""Characters of one call that are held back; a longer one is text."""


@dataclass(frozen=True)
class Dialect:
    """Thought markers (opening: closing) and the call markers, None where calls are not looked for.

    `read_call` makes the section that starts behind a call's opening and leads to the section it is given.
    `thought_call_start` is the stricter opening looked for inside a thought, where text is held for it.
    """

    thoughts: dict[str, str]
    call_start: str | None = None
    thought_call_start: str | None = None
    call_end: str | None = None
    read_call: Callable[[Section], Section] | None = None


class Answer:
    """Makes the sections of one answer; `ended` says, at the end, whether the model ended it itself."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.ended = False
        self.silent = True
        """No content but white space so far: only then does <think> open a thought."""

    def content(self) -> Section:
        """Text addressed to the user."""
        return Content(self)

    def reasoning(self, closing: str) -> Section:
        """A thought, behind its opening marker and line break."""
        return Reasoning(self, closing)

    def call(self, then: Section) -> Section:
        """A call, behind its opening marker."""
        assert self.dialect.read_call is not None, "a call marker was found"
        return self.dialect.read_call(then)


class Content:
    """Emits text until a thought or a call opens."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        dialect = answer.dialect
        calls = [dialect.call_start] if dialect.call_start else []
        self._any = Markers([*dialect.thoughts, *calls])
        self._speaking = Markers([*(m for m in dialect.thoughts if m != "<think>"), *calls])

    def scan(self, data: str, start: int, final: bool) -> Step:
        """Everything before the first marker is text; <think> inside an answer is text as well."""
        found = (self._any if self._answer.silent else self._speaking).find(data, start, final)
        said = data[start : found.at]
        if self._answer.silent and said and not said.isspace():
            self._answer.silent = False
            if found.marker == "<think>" or (found.marker is None and found.at < len(data)):
                found = self._speaking.find(data, start, final)
        events = text(data[start : found.at])
        if found.marker is None:
            return Step(events, found.at)
        return Step(events, found.at + len(found.marker), self._opened(found.marker))

    def _opened(self, marker: str) -> Section:
        closing = self._answer.dialect.thoughts.get(marker)
        if closing is None:
            return self._answer.call(self)
        return Newlines(1, self._answer.reasoning(closing))


class Reasoning:
    """Emits a thought until it closes; a call inside may turn out to end it."""

    def __init__(self, answer: Answer, closing: str) -> None:
        self._answer = answer
        self._closing = closing
        opening = answer.dialect.thought_call_start
        self._markers = Markers([closing, opening] if opening else [closing])

    def scan(self, data: str, start: int, final: bool) -> Step:
        """The line break before the closing marker is framing, so a last one waits for what follows."""
        found = self._markers.find(data, start, final)
        end = found.at
        if found.marker == self._closing:
            thought = data[start:end].removesuffix("\n")
            after = Newlines(2 if self._closing == "</think>" else 1, self._answer.content())
            return Step(reasoning(thought), end + len(self._closing), after)
        if found.marker is not None:
            return Step(reasoning(data[start:end]), end, CallInThought(self._answer, self, self._closing))
        if not final and end > start and data[end - 1] == "\n":
            end -= 1
        return Step(reasoning(data[start:end]), end)


class CallInThought:
    """Holds a call that began inside a thought.

    It stays part of the thought, unless the model ends its answer right behind the complete, valid call.
    """

    def __init__(self, answer: Answer, thought: Section, closing: str) -> None:
        dialect = answer.dialect
        assert dialect.thought_call_start is not None, "a call marker was found"
        assert dialect.call_end is not None, "a dialect with calls closes them"
        self._answer = answer
        self._thought = thought
        self._opening, self._closing = dialect.thought_call_start, closing
        self._ending = dialect.call_end
        self._opened = Markers([dialect.call_end, closing])
        self._between = Markers([dialect.thought_call_start])
        self._parts: list[str] = []
        self._size = 0
        self._complete = True

    def scan(self, data: str, start: int, final: bool) -> Step:
        """Alternates between the inside of calls and the white space behind them."""
        position = start
        while True:
            read = self._behind if self._complete else self._inside
            step = read(data, position, final)
            if step.following is not None or step.end == position:
                break
            position = step.end
        if step.following is not None or not final:
            return step
        return Step(self._last(), step.end)

    def _inside(self, data: str, start: int, final: bool) -> Step:
        found = self._opened.find(data, start, final)
        end = found.at
        if found.marker == self._ending:
            end += len(self._ending)
            self._complete = True
        # The cap counts from the first character, so it strikes at one place whatever way the text is cut.
        if self._size + end - start > MAX_HELD:
            end = start + MAX_HELD - self._size
            return self._given_up(data, start, end)
        if found.marker == self._closing:
            return self._given_up(data, start, end)
        self._take(data[start:end])
        return Step([], end)

    def _behind(self, data: str, start: int, final: bool) -> Step:
        end = start
        while end < len(data) and data[end].isspace():
            end += 1
        if end < len(data) and self._between.match(data, end) is not None:
            self._complete = False
            end += len(self._opening)
        elif end < len(data) and (final or not self._between.begins(data, end)):
            return self._given_up(data, start, end)
        if self._size + end - start > MAX_HELD:
            return self._given_up(data, start, start + MAX_HELD - self._size)
        self._take(data[start:end])
        return Step([], end)

    def _take(self, part: str) -> None:
        self._parts.append(part)
        self._size += len(part)

    def _given_up(self, data: str, start: int, end: int) -> Step:
        return Step(reasoning(*self._parts, data[start:end]), end, self._thought)

    def _last(self) -> list[Delta]:
        whole = "".join(self._parts)
        events = self._read(whole) if self._complete and self._answer.ended else []
        spoken = "".join(event.text for event in events if isinstance(event, TextDelta))
        calls: list[Delta] = [event for event in events if isinstance(event, ToolCall)]
        if not calls or spoken.strip():
            return reasoning(whole)
        _LOG.info("implicit_reasoning_end: the answer ended behind a call inside an open thought")
        return calls

    def _read(self, whole: str) -> list[Delta]:
        """Reads the held text again, as content; once, at the end."""
        events: list[Delta] = []
        position = 0
        section: Section | None = Content(self._answer)
        while section is not None:
            step = section.scan(whole, position, True)
            events += step.events
            position, section = step.end, step.following
        return events
