"""Cuts growing Markdown into blocks that later text cannot change."""

_LIST_MARKS = frozenset("-*+0123456789")


class Blocks:
    """Text goes in piece by piece; `finished()` gives what is final, `preview()` what may still change.

    A block ends at a blank line outside a code fence when the next line is known to begin something new: it
    is not indented, and does not continue a list. All of this takes time linear in the text.
    """

    def __init__(self) -> None:
        self._done: list[str] = []
        self._lines: list[str] = []
        self._tail: list[str] = []
        self._begin = ""
        self._fence = ""
        self._blank = False

    def push(self, text: str) -> None:
        """Takes more text."""
        first, *rest = text.split("\n")
        self._grow(first)
        for piece in rest:
            self._end_line()
            self._grow(piece)

    def finished(self) -> list[str]:
        """Blocks that became final since the last call, without the blank lines between them."""
        done, self._done = self._done, []
        return done

    def finish(self) -> list[str]:
        """The last blocks."""
        self._end_line()
        self._end_block()
        return self.finished()

    def preview(self, characters: int) -> str:
        """The unfinished block, or about its last `characters`, still as code when it is code."""
        kept = ["".join(self._tail)[-characters:]]
        size = len(kept[0])
        for line in reversed(self._lines):
            if size > characters:
                break
            kept.append(line[-characters:])
            size += len(line) + 1
        cut = len(kept) <= len(self._lines)
        return "\n".join([*([self._fence] if cut and self._fence else []), *reversed(kept)])

    def _grow(self, piece: str) -> None:
        """Takes a piece of the unfinished line; its first visible character tells whether a block begins."""
        undecided = self._blank and piece
        if piece:
            self._tail.append(piece)
        if undecided:
            self._cut_before("".join(self._tail))

    def _end_line(self) -> None:
        line = "".join(self._tail)
        self._tail = []
        self._lines.append(line)
        self._begin = self._begin or line.lstrip()[:1]
        if self._fence:
            self._fence = "" if _closes(line, self._fence) else self._fence
        else:
            self._fence = _opened_by(line)
        self._blank = not self._fence and not line.strip()

    def _cut_before(self, line: str) -> None:
        """Ends the block when `line`, perhaps not whole yet, begins something new."""
        if not line.strip():
            return
        self._blank = False
        if line[0] in " \t" or (line[0] in _LIST_MARKS and self._begin in _LIST_MARKS):
            return
        self._end_block()

    def _end_block(self) -> None:
        if self._begin:
            self._done.append("\n".join(self._lines))
        self._lines, self._begin = [], ""


def _opened_by(line: str) -> str:
    """The fence that a line opens, such as ``` or ~~~~, or nothing."""
    text = line.strip()
    mark = text[:1]
    width = len(text) - len(text.lstrip(mark)) if mark in {"`", "~"} else 0
    return text[:width] if width >= 3 and not (mark == "`" and "`" in text[width:]) else ""


def _closes(line: str, fence: str) -> bool:
    text = line.strip()
    return text.startswith(fence) and not text.strip(fence[0])
