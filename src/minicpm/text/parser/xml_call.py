"""Reads one <function name="..."><param name="...">value</param></function> while it arrives."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from minicpm.text.events import Delta, ToolCall
from minicpm.text.parser.answer import MAX_HELD
from minicpm.text.parser.binding import Binder, InvalidCall
from minicpm.text.parser.literal import parse_literal
from minicpm.text.parser.py_call import WrittenCall
from minicpm.text.parser.sections import Markers, Newlines, Section, Step, text
from minicpm.text.parser.strings import BadLiteral
from minicpm.text.parser.xml_text import XmlValue, attribute, may_be_attribute
from minicpm.text.schema import types_of

_START = "<function"
_PARAM, _PARAM_END, _END = "<param", "</param>", "</function>"
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_WRAPPERS = ("<arguments>", "</arguments>")
_BLANK = frozenset(" \t\r\n\f\u0120")  # U+0120 is a space that some decoders leave undone
_MAX_HEAD = 1024


class _In(Enum):
    HEAD = auto()
    BODY = auto()
    PARAM_HEAD = auto()
    VALUE = auto()
    CDATA = auto()


class XmlCall:
    """Follows the structure while it arrives, so that text which is no call is given back at once.

    Values may hold bare < and &; a line break behind <param> and before </param> is framing.
    """

    def __init__(self, binder: Binder, new_id: Callable[[], str], then: Section) -> None:
        self._binder = binder
        self._new_id = new_id
        self._then = then
        self._raw: list[str] = [_START]
        self._size = len(_START)
        self._place = _In.HEAD
        self._head = ""
        self._parameter = ""
        self._value = XmlValue()
        self._call = WrittenCall("")
        self._in_body = Markers([_PARAM, _END, *_WRAPPERS])
        self._in_value = Markers([_PARAM_END, _CDATA, _END, _PARAM, _START])

    def scan(self, data: str, start: int, final: bool) -> Step:
        """Reads on until the call ends, cannot be one, or `data` ends."""
        position = start
        while position < len(data):
            end = self._advance(data, position, final)
            if end is None:
                return Step(text(*self._raw), position, self._then)
            if end == position:
                break
            # The cap strikes at one place whatever way the text is cut.
            end = min(end, position + MAX_HELD - self._size)
            self._take(data[position:end])
            if self._size == MAX_HELD:
                return Step(text(*self._raw), end, self._then)
            position = end
            if self._place is _In.BODY and self._raw[-1] == _END:
                return self._outcome(position)
        return Step(text(*self._raw) if final else [], position)

    def _advance(self, data: str, position: int, final: bool) -> int | None:
        """The position reached, `position` where more text is needed, None where this is no call."""
        match self._place:
            case _In.HEAD | _In.PARAM_HEAD:
                return self._in_head(data, position)
            case _In.BODY:
                return self._between(data, position, final)
            case _In.VALUE:
                return self._in_plain(data, position, final)
            case _In.CDATA:
                return self._in_cdata(data, position, final)

    def _take(self, part: str) -> None:
        self._raw.append(part)
        self._size += len(part)

    def _in_head(self, data: str, position: int) -> int | None:
        character = data[position]
        if character != ">":
            self._head += character
            known = len(self._head) <= _MAX_HEAD and may_be_attribute(self._head)
            return position + 1 if known else None
        name = attribute(self._head)
        self._head = ""
        if not name:
            return None
        if self._place is _In.HEAD:
            self._call.name = name
            self._place = _In.BODY
        elif name in self._call.keywords:
            return None
        else:
            self._parameter = name
            self._value = XmlValue()
            self._place = _In.VALUE
        return position + 1

    def _between(self, data: str, position: int, final: bool) -> int | None:
        if data[position] in _BLANK:
            return position + 1
        marker = self._in_body.match(data, position)
        if marker is None:
            return position if not final and self._in_body.begins(data, position) else None
        if marker == _PARAM:
            self._place = _In.PARAM_HEAD
        return position + len(marker)

    def _in_plain(self, data: str, position: int, final: bool) -> int | None:
        found = self._in_value.find(data, position, final)
        if found.at > position:
            self._value.add(data[position : found.at])
            return found.at
        if found.marker == _PARAM_END:
            return self._ended(position)
        if found.marker == _CDATA:
            self._place = _In.CDATA
            self._value.open_cdata()
            return position + len(_CDATA)
        return self._tag_inside(data, position, found.marker, final)

    def _tag_inside(self, data: str, position: int, marker: str | None, final: bool) -> int | None:
        """A bare tag of the call format inside a value means that its end was forgotten."""
        if marker is None:
            return position
        if marker == _END:
            return None
        behind = data[position + len(marker) : position + len(marker) + 1]
        if not behind and not final:
            return position
        if behind in _BLANK and behind:
            return None
        self._value.add(marker)
        return position + len(marker)

    def _in_cdata(self, data: str, position: int, final: bool) -> int:
        end = data.find(_CDATA_END, position)
        if end == position:
            self._place = _In.VALUE
            self._value.close_cdata()
            return position + len(_CDATA_END)
        if end < 0:
            end = len(data) if final else _before_partial(data, position)
        if end > position:
            self._value.add(data[position:end])
        return end

    def _ended(self, position: int) -> int:
        self._call.keywords[self._parameter] = self._value
        self._place = _In.BODY
        return position + len(_PARAM_END)

    def _outcome(self, position: int) -> Step:
        raw = "".join(self._raw)
        try:
            call = self._read()
            events: list[Delta] = [ToolCall(self._new_id(), call.name, self._binder.arguments(call), raw)]
        except InvalidCall:
            return Step(text(raw), position, self._then)
        return Step(events, position, Newlines(1, self._then))

    def _read(self) -> WrittenCall:
        name = self._call.name
        values = {key: self._typed(name, key, value) for key, value in self._call.keywords.items()}
        return WrittenCall(name, keywords=values)

    def _typed(self, name: str, parameter: str, value: XmlValue) -> Any:
        """Text where the schema says text; else what the text spells, else the text."""
        written = value.text()
        schema = self._binder.property_schema(name, parameter)
        if "string" in types_of(schema) or _only_text(schema.get("enum")):
            return written
        try:
            return parse_literal(written)
        except BadLiteral:
            return written


def _only_text(options: Any) -> bool:
    return isinstance(options, list) and all(isinstance(option, str) for option in options)


def _before_partial(data: str, position: int) -> int:
    """The end of `data` without a tail that may begin "]]>"."""
    for tail in (2, 1):
        if len(data) - tail >= position and data.endswith(_CDATA_END[:tail]):
            return len(data) - tail
    return len(data)
