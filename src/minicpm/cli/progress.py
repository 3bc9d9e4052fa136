"""Shows how far long work is, on standard error and only while it lasts."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.status import Status

_PLAIN_EVERY_S = 10.0


class Report(Protocol):
    """What long work calls: bytes done, bytes in total, and what is being worked on."""

    def __call__(self, done: int, total: int, label: str) -> None:
        """Shows it."""
        ...


class Count(Protocol):
    """What long work calls: how many are done, and how many there are."""

    def __call__(self, done: int, total: int) -> None:
        """Shows it."""
        ...


@contextmanager
def bytes_bar(title: str, *, always: bool = False) -> Iterator[Report]:
    """A bar with rate and remaining time on a terminal; elsewhere, with `always`, a line now and then."""
    if _is_terminal():
        with _bar(title) as report:
            yield report
    else:
        yield _plain(title) if always else _silent


@contextmanager
def count_bar(title: str) -> Iterator[Count]:
    """A bar with the remaining time on a terminal that shows nothing else; elsewhere a line now and then."""
    if _is_terminal() and not sys.stdout.isatty():
        with _counting_bar(title) as count:
            yield count
    else:
        yield _plain_count(title)


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """A sign of life on a terminal; nothing elsewhere."""
    if not _is_terminal():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


@contextmanager
def activity(title: str) -> Iterator[Callable[[str], object]]:
    """A sign of life on a terminal that says what is being done; what it gives is called with that."""
    if not _is_terminal():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")


class Journal(Protocol):
    """What long work in steps writes to standard error."""

    def now(self, text: str) -> None:
        """Says what is being done, on a terminal."""
        ...

    def line(self, text: str) -> None:
        """Writes a line that stays."""
        ...


@contextmanager
def journal(title: str) -> Iterator[Journal]:
    """Lines that stay, and on a terminal below them a sign of life that says what is being done."""
    if not _is_terminal():
        yield _Lines()
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as status:
        yield _Status(title, status)


class _Lines:
    def now(self, text: str) -> None:
        """Nothing: each would stay."""

    def line(self, text: str) -> None:
        """Writes it."""
        print(text, file=sys.stderr, flush=True)


class _Status:
    def __init__(self, title: str, status: "Status") -> None:
        self._title, self._status = title, status

    def now(self, text: str) -> None:
        """Shows it."""
        self._status.update(f"{self._title}: {text}")

    def line(self, text: str) -> None:
        """Writes it above."""
        self._status.console.print(text, highlight=False, markup=False)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _silent(done: int, total: int, label: str) -> None:
    """Reports nothing."""


@contextmanager
def _bar(title: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Rate

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), Rate())
    progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=None)

    def report(done: int, total: int, label: str) -> None:
        # Starting again does nothing; without a report, as for what is there already, no bar appears.
        progress.start()
        progress.update(task, completed=done, total=total or None, description=f"{title}: {label}"[:60])

    try:
        yield report
    finally:
        progress.stop()


@contextmanager
def _counting_bar(title: str) -> Iterator[Count]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _plain_count(title: str) -> Count:
    last = time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            print(f"{title}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return count


def _plain(title: str) -> Report:
    last = time.monotonic()

    def report(done: int, total: int, label: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            percent = 100 * done // total if total else 0
            print(f"{title}: {percent} % of {total:,} bytes, {label}", file=sys.stderr, flush=True)

    return report
