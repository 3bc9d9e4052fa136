"""Shows a conversation on a terminal: thinking dimmed, answers as Markdown while they grow, notes below."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from minicpm.cli.talk.blocks import Blocks
from minicpm.cli.talk.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


class View(Protocol):
    """Where the text of an answer goes."""

    def text(self, piece: str) -> None:
        """More of the answer."""
        ...

    def close(self) -> None:
        """The answer is over."""
        ...


class Screen:
    """Everything a chat writes; `plain` turns Markdown off, as does an output that is no capable terminal.

    Answers go to `console`; thinking and what the program says go to `aside`, where that is another one.
    """

    def __init__(self, console: "Console", *, aside: "Console | None" = None, plain: bool = False) -> None:
        self._console = console
        self._aside = aside or console
        self._plain = plain or not console.is_terminal or console.is_dumb_terminal

    def say(self, text: str) -> None:
        """A line of the program."""
        self._aside.print(printable(text), markup=False, highlight=False)

    def note(self, text: str) -> None:
        """A dimmed line of the program."""
        self._aside.print(printable(text), style="dim", markup=False, highlight=False)

    def refuse(self, text: str) -> None:
        """Something cannot be done; the chat goes on."""
        self._aside.print(printable(text), style="red", markup=False, highlight=False)

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names and what they are, in two columns."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(style="dim")
        for name, text in rows:
            grid.add_row(Text(printable(name)), Text(printable(text)))
        self._aside.print(grid)

    def answer(self) -> "AnswerView":
        """A view for one answer; leave its `with` block when the answer is over."""
        return AnswerView(self._console, self._aside, plain=self._plain)


class AnswerView:
    """One answer on the screen: a sign of life until it begins, thinking, then text."""

    def __init__(self, console: "Console", aside: "Console", *, plain: bool) -> None:
        self._console, self._aside = console, aside
        self._plain = plain
        self._status: Status | None = None
        self._body: View | None = None
        self._thinking = _Trimmed(self._dim)

    def __enter__(self) -> "AnswerView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet()
        if self._thinking.began and self._body is None:
            self._aside.print()
        if self._body is not None:
            self._body.close()

    def waiting(self) -> None:
        """Nothing came for a while."""
        if not self._plain and self._status is None and self._body is None and not self._thinking.began:
            self._status = self._console.status("reading", spinner="dots", spinner_style="dim")
            self._status.start()

    def reasoning(self, piece: str) -> None:
        """More of the thinking."""
        self._quiet()
        self._thinking.write(printable(piece))

    def text(self, piece: str) -> None:
        """More of the answer."""
        self._quiet()
        if self._body is None:
            if not piece.strip():
                return
            if self._thinking.began:
                self._aside.print("\n")
            self._body = _Plain(self._console) if self._plain else _Growing(self._console)
        self._body.text(printable(piece))

    def _dim(self, text: str) -> None:
        self._aside.print(text, style="dim italic", end="", markup=False, highlight=False, soft_wrap=True)

    def _quiet(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class _Trimmed:
    """Writes text without the blanks at its two ends."""

    def __init__(self, write: "Writer") -> None:
        self.began = False
        self._write = write
        self._held = ""

    def write(self, piece: str) -> None:
        piece = self._held + piece if self.began else piece.lstrip()
        kept = piece.rstrip()
        self._held = piece[len(kept) :]
        if kept:
            self.began = True
            self._write(kept)


class Writer(Protocol):
    """Writes text."""

    def __call__(self, text: str) -> None:
        """At once."""
        ...


class _Plain:
    """Text as it comes."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._trimmed = _Trimmed(self._out)

    def text(self, piece: str) -> None:
        self._trimmed.write(piece)

    def close(self) -> None:
        self._console.print()

    def _out(self, text: str) -> None:
        self._console.print(text, end="", markup=False, highlight=False, soft_wrap=True)


class _Growing:
    """Markdown: finished blocks scroll away above, the growing one is drawn anew below them."""

    _LEAST_S = 0.07
    # Drawing may take a fifth of the time at most, whatever the length of a block.
    _DRAWING_SHARE = 5

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._console = console
        self._blocks = Blocks()
        self._first = True
        self._next_draw = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def text(self, piece: str) -> None:
        self._blocks.push(piece)
        self._scroll(self._blocks.finished())
        began = time.monotonic()
        if began >= self._next_draw:
            from minicpm.cli.talk.markdown import Block

            width, height = self._console.size
            shown = self._blocks.preview(2 * width * height)
            self._live.update(Block(shown, tail=True), refresh=True)
            spent = time.monotonic() - began
            self._next_draw = began + max(self._LEAST_S, self._DRAWING_SHARE * spent)

    def close(self) -> None:
        self._live.update("", refresh=True)
        self._live.stop()
        self._scroll(self._blocks.finish())

    def _scroll(self, blocks: list[str]) -> None:
        from minicpm.cli.talk.markdown import Block

        for block in blocks:
            if self._live.is_started:
                self._live.update("")
            if not self._first:
                self._console.print()
            self._console.print(Block(block))
            self._first = False
