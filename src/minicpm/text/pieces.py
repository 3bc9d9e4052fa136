"""A rendered prompt as alternating stretches of plain text and control spellings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of a prompt: `control` text becomes one control id, other text never does."""

    text: str
    control: bool = False


class Spellings:
    """Finds a fixed set of strings in text, leftmost first and longest first, in linear time."""

    def __init__(self, spellings: Iterable[str]) -> None:
        self.all = frozenset(spelling for spelling in spellings if spelling)
        self._firsts = {spelling[0] for spelling in self.all}
        # By two characters, so that text full of "<" costs one look-up each.
        self._by_head: dict[str, list[str]] = {}
        for spelling in sorted(self.all, key=len, reverse=True):
            self._by_head.setdefault(spelling[:2], []).append(spelling)
        self._prefixes = {s[:n] for s in self.all for n in range(1, len(s))}
        self._longest = max(map(len, self.all), default=0)

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Yields (position, spelling) without overlaps."""
        position = 0
        for start, spelling in self.find_all(text):
            if start >= position:
                yield start, spelling
                position = start + len(spelling)

    def find_all(self, text: str) -> Iterator[tuple[int, str]]:
        """Yields (position, longest spelling there), also those that begin inside another."""
        for start in self._starts(text):
            candidates = self._by_head.get(text[start : start + 2], self._by_head.get(text[start], []))
            spelling = next((s for s in candidates if text.startswith(s, start)), None)
            if spelling is not None:
                yield start, spelling

    def _starts(self, text: str) -> Iterator[int]:
        if len(self._firsts) == 1:  # every published vocabulary: all control spellings begin with "<"
            (first,) = self._firsts
            start = text.find(first)
            while start >= 0:
                yield start
                start = text.find(first, start + 1)
        else:
            yield from (i for i, character in enumerate(text) if character in self._firsts)

    def split(self, text: str) -> list[Piece]:
        """Cuts `text` into pieces; joining them gives `text` back."""
        pieces: list[Piece] = []
        end = 0
        for start, spelling in self.find(text):
            if start > end:
                pieces.append(Piece(text[end:start]))
            pieces.append(Piece(spelling, control=True))
            end = start + len(spelling)
        if end < len(text):
            pieces.append(Piece(text[end:]))
        return pieces

    def ends_inside(self, text: str) -> bool:
        """Whether the end of `text` could be the beginning of a spelling."""
        return any(text[-n:] in self._prefixes for n in range(1, min(self._longest, len(text) + 1)))
