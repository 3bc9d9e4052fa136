"""Turns the token ids of one sequence into text, up to its first stop string."""

from typing import Protocol

from minicpm.engine.stops import StopMatcher, StopSet


class Detokenizer(Protocol):
    """Token ids in, whole characters out."""

    def push(self, token: int) -> str:
        """Characters that became whole."""
        ...

    def finish(self) -> str:
        """What is left when no more tokens come."""
        ...


class Writer:
    """Text of one sequence as it grows; without a detokenizer it stays empty."""

    def __init__(self, detokenizer: Detokenizer | None, stops: StopSet | None, *, min_tokens: int) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops) if stops else None
        self._unmatched = min_tokens
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that became certain with this token; sets `stopped` when a stop string ends it."""
        if self._detokenizer is None:
            return ""
        text = self._detokenizer.push(token)
        if self._unmatched > 0:
            self._unmatched -= 1
            return text
        return self._match(text)

    def finish(self) -> str:
        """The text still held back when no more tokens come."""
        if self._detokenizer is None or self.stopped:
            return ""
        text = self._match(self._detokenizer.finish())
        return text if self._matcher is None or self.stopped else text + self._matcher.finish()

    def _match(self, text: str) -> str:
        if self._matcher is None:
            return text
        cut = self._matcher.push(text)
        self.stopped = cut.stopped
        return cut.text
