"""Keeps keys that are pressed while an answer is written from being mixed into it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def echo_off() -> Iterator[None]:
    """In this block a POSIX terminal on standard input shows no keys; they wait for the next prompt."""
    try:
        import termios
    except ImportError:
        yield
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
