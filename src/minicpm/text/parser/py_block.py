"""Reads the calls between <|tool_call_start|> and <|tool_call_end|> while they arrive."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from minicpm.text.events import Delta, ToolCall
from minicpm.text.parser.answer import MAX_HELD
from minicpm.text.parser.binding import Binder, InvalidCall
from minicpm.text.parser.call_end import CallEnd
from minicpm.text.parser.py_call import read_call
from minicpm.text.parser.sections import Markers, Newlines, Section, Step, text
from minicpm.text.parser.strings import BadLiteral

_START, _END = "<|tool_call_start|>", "<|tool_call_end|>"
_SEPARATORS = frozenset(" \t\r\n\f;,[]()")
_FENCE, _TAG = "```", "python"


class _In(Enum):
    GAP = auto()
    NAME = auto()
    SPACE = auto()
    ARGUMENTS = auto()
    JUNK = auto()


class PythonBlock:
    """Cuts a block into items: calls, and lines that are none.

    A valid call is emitted at its closing parenthesis and the framing before it is dropped; anything else is
    emitted as text together with the framing before it. So a block without one valid call stays as it was.
    """

    def __init__(self, binder: Binder, new_id: Callable[[], str], then: Section) -> None:
        self._binder = binder
        self._new_id = new_id
        self._then = then
        self._end = Markers([_END])
        self._gap: list[str] = [_START]
        self._item: list[str] = []
        self._size = 0
        self._place = _In.GAP
        self._called = False  # whether the last item was a valid call
        self._arguments = CallEnd()
        self._ended = False  # whether the character just read ended an item
        self._line_break = ""  # what ended it, if that belongs to the gap behind

    def scan(self, data: str, start: int, final: bool) -> Step:
        """Reads on until the end marker, the cap, or the end of `data`."""
        events: list[Delta] = []
        position = start
        while position < len(data):
            if data[position] == "<":
                if self._end.match(data, position):
                    return self._closed(events, position + len(_END))
                if not final and self._end.begins(data, position):
                    break
            if self._size >= MAX_HELD:
                return Step(events + self._rejected(), position, self._then)
            end = self._advance(data, position, final)
            if end == position:
                break
            self._size += end - position
            if self._ended:
                events += self._outcome()
            position = end
        return Step(events + (self._cut_off() if final else []), position)

    def _advance(self, data: str, position: int, final: bool) -> int:
        """Moves over one character or fence; returns `position` where more text is needed to decide."""
        self._ended = False
        if self._place is _In.GAP:
            return self._in_gap(data, position, final)
        if self._place is _In.ARGUMENTS:
            end = self._arguments.advance(data, position, final)
            self._ended = self._arguments.closed
        else:
            if data[position] == "\n" or (data[position] == ";" and self._place is not _In.JUNK):
                return self._line_end(data, position)
            self._place = self._after_name(data[position])
            end = position + 1
        self._item.append(data[position:end])
        return end

    def _in_gap(self, data: str, position: int, final: bool) -> int:
        fence = _fence_end(data, position, final)
        if fence is None:
            return position
        if fence > position or data[position] in _SEPARATORS:
            end = max(fence, position + 1)
            self._gap.append(data[position:end])
            return end
        self._place = _In.NAME if data[position] not in "'\"`{}=:" else _In.JUNK
        self._item.append(data[position])
        return position + 1

    def _after_name(self, character: str) -> _In:
        """A name may be followed by blanks and an opening parenthesis; anything else makes the line junk."""
        if self._place is _In.JUNK:
            return _In.JUNK
        if character == "(":
            self._arguments = CallEnd()
            return _In.ARGUMENTS
        if character in " \t":
            return _In.SPACE
        legal = self._place is _In.NAME and character not in "'\"`[]{}),=:"
        return _In.NAME if legal else _In.JUNK

    def _line_end(self, data: str, position: int) -> int:
        """The line was no call; the break itself belongs to the next gap."""
        self._ended = True
        self._line_break = data[position]
        return position + 1

    def _outcome(self) -> list[Delta]:
        raw = "".join(self._item)
        call = self._call(raw) if self._place is _In.ARGUMENTS else None
        if call is None:
            events = self._rejected()
        else:
            events = [call]
            self._reset(called=True)
        if self._line_break:
            self._gap.append(self._line_break)
            self._size = 1
            self._line_break = ""
        return events

    def _call(self, raw: str) -> ToolCall | None:
        try:
            written = read_call(raw)
            return ToolCall(self._new_id(), written.name, self._binder.arguments(written), raw)
        except (BadLiteral, InvalidCall):
            return None

    def _rejected(self) -> list[Delta]:
        events = text(*self._gap, *self._item)
        self._reset(called=False)
        return events

    def _reset(self, *, called: bool) -> None:
        self._gap, self._item, self._size = [], [], 0
        self._place = _In.GAP
        self._called = called

    def _closed(self, events: list[Delta], end: int) -> Step:
        if self._item or not self._called:
            return Step(events + self._rejected() + text(_END), end, self._then)
        return Step(events, end, Newlines(1, self._then))

    def _cut_off(self) -> list[Delta]:
        return self._rejected() if self._item or not self._called else []


def _fence_end(data: str, position: int, final: bool) -> int | None:
    """The position behind a fence with its tag, `position` where there is none, None where it is open."""
    if data[position] != "`":
        return position
    enough = final or len(data) - position > len(_FENCE) + len(_TAG)
    if not enough:
        return None
    if not data.startswith(_FENCE, position):
        return position
    end = position + len(_FENCE)
    tagged = data.startswith(_TAG, end) and data[end + len(_TAG) : end + len(_TAG) + 1].strip() == ""
    return end + len(_TAG) if tagged else end
