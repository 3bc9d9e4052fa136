"""Cuts growing Markdown into blocks that later text cannot change."""

_LIST_MARKS = frozenset("-*+0123456789")


class Blocks:
    """Text goes in piece by piece; `finished()` gives blocks that are final, `rest` is what may still change.

    A block ends at a blank line outside a code fence when the next line is known to begin something new: it
    is not indented, and does not continue a list.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._tail = ""
        self._done: list[str] = []
        self._fence = ""
        self._blank = False

    @property
    def rest(self) -> str:
        """The unfinished block."""
        return "\n".join([*self._lines, self._tail])

    def push(self, text: str) -> None:
        """Takes more text."""
        *whole, self._tail = (self._tail + text).split("\n")
        for line in whole:
            self._take(line)
        if self._tail:
            self._cut_before(self._tail)

    def finished(self) -> list[str]:
        """Blocks that became final since the last call, without the blank lines between them."""
        done, self._done = self._done, []
        return done

    def finish(self) -> list[str]:
        """The last blocks."""
        if self.rest.strip():
            self._done.append(self.rest)
        self._lines, self._tail = [], ""
        return self.finished()

    def _take(self, line: str) -> None:
        self._cut_before(line)
        self._lines.append(line)
        if self._fence:
            self._fence = "" if _closes(line, self._fence) else self._fence
        else:
            self._fence = _opened_by(line)
        self._blank = not self._fence and not line.strip()

    def _cut_before(self, line: str) -> None:
        """Ends the block when `line`, perhaps not whole yet, begins something new."""
        if not self._blank or not line.strip() or line[0] in " \t":
            return
        block = "\n".join(self._lines)
        if line[0] in _LIST_MARKS and block.lstrip()[:1] in _LIST_MARKS:
            return
        if block.strip():
            self._done.append(block)
        self._lines, self._blank = [], False


def _opened_by(line: str) -> str:
    """The fence that a line opens, such as ``` or ~~~~, or nothing."""
    text = line.strip()
    mark = text[:1]
    width = len(text) - len(text.lstrip(mark)) if mark in {"`", "~"} else 0
    return text[:width] if width >= 3 and not (mark == "`" and "`" in text[width:]) else ""


def _closes(line: str, fence: str) -> bool:
    text = line.strip()
    return text.startswith(fence) and not text.strip(fence[0])
