"""Turns what went wrong into a sentence on standard error and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from minicpm.cli.main import BROKEN_PIPE, INTERRUPTED
from minicpm.errors import MiniCPMError

REFUSED = 2


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a known place; the text says what was stopped and what is kept."""


@contextmanager
def stage(stopped: str) -> Iterator[None]:
    """What to say when Ctrl-C comes in this block."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as stop:
        raise Interrupted(stopped) from stop


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
    if sys.stderr is not None:
        print(text, file=sys.stderr)
