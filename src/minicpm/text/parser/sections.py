"""What a stream is made of: sections that read text, emit events and name the section that follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from minicpm.text.events import Delta, ReasoningDelta, TextDelta


class Section(Protocol):
    """One state of the parser."""

    def scan(self, data: str, start: int, final: bool) -> Step:
        """Reads `data` from `start`; what it leaves unread comes again in front of the next piece.

        It may leave only what cannot be decided yet, at most the length of a marker, and nothing if `final`.
        """
        ...


class Step(NamedTuple):
    """Events of one scan, the position up to which `data` is used, and the next section (None: more text)."""

    events: list[Delta]
    end: int
    following: Section | None = None


class Found(NamedTuple):
    """The first marker at or after a position; `marker` is None where `at` only begins one or is the end."""

    at: int
    marker: str | None


class Markers:
    """A few spellings that all begin with "<"."""

    def __init__(self, markers: Iterable[str]) -> None:
        self._markers = tuple(markers)
        self._longest = max(map(len, self._markers), default=0)

    def find(self, data: str, start: int, final: bool) -> Found:
        """Every "<" is looked at once, so the time is linear."""
        at = data.find("<", start) if self._markers else -1
        while at >= 0:
            marker = self.match(data, at)
            if marker is not None or (not final and self.begins(data, at)):
                return Found(at, marker)
            at = data.find("<", at + 1)
        return Found(len(data), None)

    def match(self, data: str, at: int) -> str | None:
        """The marker that stands at `at`."""
        return next((marker for marker in self._markers if data.startswith(marker, at)), None)

    def begins(self, data: str, at: int) -> bool:
        """Whether the rest of `data` from `at` could grow into a marker."""
        rest = len(data) - at
        return rest < self._longest and any(marker.startswith(data[at:]) for marker in self._markers)


class Newlines:
    """Framing between a marker and what follows: up to `count` line breaks are dropped."""

    def __init__(self, count: int, then: Section) -> None:
        self._count = count
        self._then = then

    def scan(self, data: str, start: int, final: bool) -> Step:
        """Ends at the first other character."""
        end = start
        while self._count and end < len(data) and data[end] == "\n":
            end += 1
            self._count -= 1
        undecided = self._count and end == len(data) and not final
        return Step([], end, None if undecided else self._then)


def text(*parts: str) -> list[Delta]:
    """A text event, or none for empty text."""
    joined = "".join(parts)
    return [TextDelta(joined)] if joined else []


def reasoning(*parts: str) -> list[Delta]:
    """A reasoning event, or none for empty text."""
    joined = "".join(parts)
    return [ReasoningDelta(joined)] if joined else []
