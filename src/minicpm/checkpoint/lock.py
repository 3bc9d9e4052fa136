"""Locks between processes that vanish with their holder, whatever ends it."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_POLL_S = 0.1


@contextmanager
def held(path: Path, *, waiting: Callable[[], None] | None = None, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, which is never deleted; yields False, not held, when busy and `wait` is off.

    `waiting` is called once when another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        locked = _try_lock(descriptor)
        if not locked and waiting is not None:
            waiting()
        while not locked and wait:
            time.sleep(_POLL_S)
            locked = _try_lock(descriptor)
        yield locked
    finally:
        os.close(descriptor)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Mark a temporary folder as in use by this process, where folders can be locked (not on Windows)."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _try_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def is_abandoned(folder: Path) -> bool:
    """True when no process marks the folder as in use; False where that cannot be known."""
    if sys.platform == "win32":
        return False
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _try_lock(descriptor)
    finally:
        os.close(descriptor)
