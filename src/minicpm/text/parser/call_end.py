"""Finds the parenthesis that closes a call, in text that arrives in pieces."""

from __future__ import annotations

_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


class CallEnd:
    """Starts behind the opening parenthesis; `closed` becomes true at the matching one.

    Brackets inside strings do not count. Whether the brackets match in kind is the reader's business.
    """

    def __init__(self) -> None:
        self.closed = False
        self._depth = 1
        self._quote = ""
        self._escaped = False

    def advance(self, data: str, position: int, final: bool) -> int:
        """Moves over one character or quote; returns `position` where more text is needed to decide."""
        character = data[position]
        if self._escaped:
            self._escaped = False
        elif character in "'\"":
            return self._at_quote(data, position, final)
        elif self._quote:
            self._escaped = character == "\\"
        elif character in _OPENING:
            self._depth += 1
        elif character in _CLOSING:
            self._depth -= 1
            self.closed = self._depth == 0
        return position + 1

    def _at_quote(self, data: str, position: int, final: bool) -> int:
        character = data[position]
        if self._quote and character != self._quote[0]:
            return position + 1
        if len(self._quote) != 1:  # opening, or inside a tripled one: three quotes or one?
            if not final and len(data) - position < 3 and set(data[position:]) == {character}:
                return position
            if data.startswith(character * 3, position):
                self._quote = "" if self._quote else character * 3
                return position + 3
        if len(self._quote) != 3:
            self._quote = "" if self._quote else character
        return position + 1
