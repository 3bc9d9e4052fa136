"""Collects everything wrong with a conversation, to report it in one message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minicpm.errors import MessageError

MAX_DEPTH = 64
_SHOWN = 10


class Problems:
    """A list of sentences that becomes one MessageError."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Notes that the value at `where` is wrong."""
        self._found.append(f"{where} {what}")

    def check_text(self, where: str, text: str) -> None:
        """Refuses text without a UTF-8 form."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self.add(
                where, f"holds a lone surrogate at character {error.start}; decode the text properly first"
            )

    def check_value(self, where: str, value: Any) -> None:
        """Refuses JSON values nested too deeply and text in them without a UTF-8 form."""
        try:
            for text in strings_in(value, MAX_DEPTH):
                self.check_text(where, text)
        except RecursionError:
            self.add(where, f"is nested more than {MAX_DEPTH} levels deep")
        except TypeError as error:
            self.add(where, f"holds {error}, which has no JSON form")

    def raise_if_any(self, subject: str) -> None:
        """Raises MessageError with all that was noted."""
        if not self._found:
            return
        shown = "; ".join(self._found[:_SHOWN])
        rest = f"; and {len(self._found) - _SHOWN} more" if len(self._found) > _SHOWN else ""
        raise MessageError(f"{subject} cannot be used: {shown}{rest}.")


def strings_in(value: Any, depth: int = MAX_DEPTH + 8) -> Iterator[str]:
    """Every string of a JSON value, keys included.

    Raises RecursionError below `depth` levels, TypeError for what is no JSON value.
    """
    if depth == 0:
        raise RecursionError
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from strings_in(inner, depth - 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings_in(inner, depth - 1)
    elif not isinstance(value, bool | int | float | None):
        raise TypeError(f"a {type(value).__name__}")
