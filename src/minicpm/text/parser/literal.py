"""Reads literals the way models write them: Python's and JSON's together, evaluating nothing.

literal := string+ | number | True|False|None | true|false|null | [..] | (..) | {..} | (+|-|not) literal
"""

from __future__ import annotations

import json
import math
from typing import Any

from minicpm.text.parser.strings import BadLiteral, read_string, starts_string

MAX_DEPTH = 64
MAX_DIGITS = 400
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_SPACE = frozenset(" \t\r\n\f")
_NAME_ENDS = frozenset(" \t\r\n\f,=:()[]{}'\"`;")
_BASES = {"0x": 16, "0o": 8, "0b": 2}


class LiteralReader:
    """A cursor over `text`; every method leaves it behind what was read, or raises BadLiteral."""

    def __init__(self, text: str, position: int = 0) -> None:
        self.text = text
        self.position = position

    def skip_space(self) -> str:
        """Moves over white space; returns the next character, "" at the end."""
        while self.position < len(self.text) and self.text[self.position] in _SPACE:
            self.position += 1
        return self.text[self.position : self.position + 1]

    def take(self, expected: str) -> bool:
        """Whether `expected` came next, after white space; if so it is consumed."""
        self.skip_space()
        found = self.text.startswith(expected, self.position)
        self.position += len(expected) if found else 0
        return found

    def word(self) -> str:
        """The run of characters that may belong to a name or number; "" where there is none."""
        self.skip_space()
        start = self.position
        while self.position < len(self.text) and self.text[self.position] not in _NAME_ENDS:
            self.position += 1
        return self.text[start : self.position]

    def value(self, depth: int = 0) -> Any:
        """One literal."""
        if depth >= MAX_DEPTH:
            raise BadLiteral(f"nested more than {MAX_DEPTH} levels deep")
        following = self.skip_space()
        if following == "[":
            return self._sequence("[", "]", depth)
        if following == "(":
            return self._parenthesis(depth)
        if following == "{":
            return self._mapping(depth)
        if starts_string(self.text, self.position):
            return self._string()
        return self._bare(depth)

    def _bare(self, depth: int) -> Any:
        if self.text[self.position : self.position + 1] in ("+", "-"):
            return self._signed(depth)
        word = self.word()
        if word == "not":
            return not self.value(depth + 1)
        if word in _WORDS:
            return _WORDS[word]
        return number(word)

    def _signed(self, depth: int) -> int | float:
        negative = self.text[self.position] == "-"
        self.position += 1
        value = self.value(depth + 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadLiteral("a sign before something that is no number")
        return -value if negative else value

    def _string(self) -> str:
        """One or more strings side by side are one."""
        parts: list[str] = []
        while starts_string(self.text, self.position):
            part, self.position = read_string(self.text, self.position)
            parts.append(part)
            self.skip_space()
        return "".join(parts)

    def _sequence(self, opening: str, closing: str, depth: int) -> list[Any]:
        self.take(opening)
        values: list[Any] = []
        while not self.take(closing):
            values.append(self.value(depth + 1))
            if not self.take(",") and self.skip_space() != closing:
                raise BadLiteral(f"neither , nor {closing} after an element")
        return values

    def _parenthesis(self, depth: int) -> Any:
        """A tuple becomes a list; a single value in parentheses is itself."""
        start = self.position
        values = self._sequence("(", ")", depth)
        inside = self.text[start : self.position - 1].rstrip()
        return values[0] if len(values) == 1 and not inside.endswith(",") else values

    def _mapping(self, depth: int) -> dict[str, Any]:
        self.take("{")
        values: dict[str, Any] = {}
        while not self.take("}"):
            key = _key(self.value(depth + 1))
            if key in values:
                raise BadLiteral(f"key {key!r:.60} twice")
            if not self.take(":"):
                raise BadLiteral("no : after a key")
            values[key] = self.value(depth + 1)
            if not self.take(",") and self.skip_space() != "}":
                raise BadLiteral("neither , nor } after an entry")
        return values


def parse_literal(text: str) -> Any:
    """The one literal that `text` is; raises BadLiteral."""
    reader = LiteralReader(text)
    value = reader.value()
    if reader.skip_space():
        raise BadLiteral(f"more after the value at character {reader.position}")
    return value


def number(word: str) -> int | float:
    """A Python or JSON number; leading zeros are decimal."""
    digits = word.replace("_", "")
    if not word or not word.isascii() or len(digits) > MAX_DIGITS or word[-1] == "_" or word[0] in "_+-":
        raise BadLiteral(f"{word!r:.60} is no literal")
    base = _BASES.get(digits[:2].lower(), 10)
    try:
        return int(digits, base)
    except ValueError:
        pass
    if not set(digits) <= set("0123456789.eE+-"):
        raise BadLiteral(f"{word!r:.60} is no literal")
    try:
        value = float(digits)
    except ValueError as error:
        raise BadLiteral(f"{word!r:.60} is no number") from error
    if not math.isfinite(value):
        raise BadLiteral(f"{word!r:.60} is not finite")
    return value


def _key(value: Any) -> str:
    """Object keys are text in JSON; numbers and constants become their JSON spelling."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        raise BadLiteral("a list or object as a key")
    return json.dumps(value)
