"""Writes files and folders so that a reader, even after a crash, meets the old or the new, never a half."""

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.lock import hold_folder, is_abandoned
from minicpm.errors import BadInput

_PARTIAL = ".partial-"


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` at once, as `new_file` does."""
    with new_file(path) as file:
        file.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, which it becomes, synced, when the block ends well; otherwise it vanishes."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file, hold_folder(beside):
            yield file
            file.flush()
            sync_file(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(descriptor: int) -> None:
    """Force a file's content to the disk."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`; it becomes `path` when the block ends well, and vanishes otherwise.

    Raises BadInput when `path` holds anything and `overwrite` is off. Remains of killed writers are removed.
    """
    check_target(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    beside = path.with_name(f".{path.name}{_PARTIAL}{secrets.token_hex(4)}")
    beside.mkdir()
    with hold_folder(beside):
        try:
            yield beside
            sync_folder(beside)
            check_target(path, overwrite=overwrite)
            _publish(beside, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise BadInput unless `path` is free to become a new folder."""
    if path.exists() and not path.is_dir():
        raise BadInput(f"{shown(str(path))} is a file; a model is written as a folder. Name another place.")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise BadInput(
            f"{shown(str(path))} is a folder that is not empty, and nothing in it is overwritten unless "
            "asked for. Name another folder, or say overwrite."
        )


def _publish(beside: Path, path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        _exchange(beside, path)
    else:
        os.replace(beside, path)
    sync_folder(path.parent)


def _exchange(beside: Path, path: Path) -> None:
    """Swap two folders; `beside` then holds the old content."""
    if _renameat2_exchange(beside, path):
        return
    # Without an atomic exchange the old folder rests aside for the moment between two renames.
    aside = path.with_name(f".{path.name}.old-{secrets.token_hex(4)}")
    os.replace(path, aside)
    os.replace(beside, path)
    os.replace(aside, beside)


def _renameat2_exchange(first: Path, second: Path) -> bool:
    """Linux's renameat2(RENAME_EXCHANGE), which Python does not offer; False where it is absent."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    at_fdcwd, exchange = -100, 2
    return bool(renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), exchange) == 0)


def _sweep(path: Path) -> None:
    """Remove what writers of the same target left when they were killed."""
    for entry in path.parent.glob(f".{_escaped(path.name)}{_PARTIAL}*"):
        if entry.is_dir() and is_abandoned(entry):
            shutil.rmtree(entry, ignore_errors=True)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
