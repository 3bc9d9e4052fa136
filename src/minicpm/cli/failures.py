"""Turns what went wrong into a sentence on standard error and an exit code."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn

from minicpm.cli.main import BROKEN_PIPE, INTERRUPTED, REFUSED
from minicpm.errors import MiniCPMError


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a known place; the text says what was stopped and what is kept."""


class stage:
    """What to say when Ctrl-C comes in this block; use it in the main thread.

    A library that swallows the KeyboardInterrupt, as some do while they are imported, only delays it: to the
    next `check()`, or to the end of the block.
    """

    def __init__(self, stopped: str) -> None:
        self._stopped = stopped
        self._came = False

    def check(self) -> None:
        """Raises Interrupted after a swallowed Ctrl-C."""
        if self._came:
            raise Interrupted(self._stopped)

    def __enter__(self) -> "stage":
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        if isinstance(error, Interrupted):
            return
        if self._came or isinstance(error, KeyboardInterrupt):
            raise Interrupted(self._stopped) from error

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt


@contextmanager
def told(tracebacks: Callable[[], bool]) -> Iterator[None]:
    """Ends the program after any failure of this block: a sentence for ours, none for a broken pipe."""
    try:
        yield
    except MiniCPMError as error:
        _end(str(error), REFUSED, error if tracebacks() else None)
    except KeyboardInterrupt as stop:
        _end(str(stop) or "Stopped.", INTERRUPTED, stop if tracebacks() else None, prefix="")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        _end(_system_says(error), REFUSED, error if tracebacks() else None)
    except MemoryError as error:
        _end(
            "The memory ran out. Use a smaller model, a shorter context or a 16-bit dtype; `minicpm doctor` "
            "says how much is free.",
            REFUSED,
            error if tracebacks() else None,
        )


def explain_mistake(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An excepthook: names a mistake of the program as such, without the traceback that --debug gives."""
    where = traceback.extract_tb(trace)[-1:]
    place = f" at {os.path.basename(where[0].filename)}:{where[0].lineno}" if where else ""
    _write(
        f"Error: {kind.__name__}: {error}{place}. This is a mistake in minicpm, not yours. Run it again with "
        "--debug and report what that prints."
    )


def _end(message: str, code: int, error: BaseException | None, *, prefix: str = "Error: ") -> NoReturn:
    if error is not None:
        traceback.print_exception(error)
    else:
        _write(prefix + message)
    raise SystemExit(code)


def _system_says(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}. The system refused this; correct it and try again."


def _write(text: str) -> None:
    print(text, file=sys.stderr)
