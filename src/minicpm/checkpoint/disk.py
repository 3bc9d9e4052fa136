"""Turns what the system says about a full or read-only disk into errors of ours, with the numbers."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minicpm.checkpoint.files import shown
from minicpm.errors import BadInput, DiskFull, MiniCPMError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOTDIR", "ENOENT", "EEXIST", "ELOOP", "ENAMETOOLONG")
)
_ADVICE = "Free some room, or name another place."


@contextmanager
def writing(
    folder: Path, *, needed: int = 0, refused: type[MiniCPMError] = BadInput, advice: str = _ADVICE
) -> Iterator[None]:
    """Raise DiskFull, or `refused`, for what the system says about writes under `folder`.

    `needed` is the number of bytes still to be written, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(folder, needed, advice) from error
        if error.errno is not None and error.errno in _REFUSED:
            raise refused(
                f"{shown(str(error.filename or folder))} cannot be written ({os.strerror(error.errno)}), so "
                f"nothing can be kept there. {advice}"
            ) from error
        raise


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that holds `folder` or will hold it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_room(folder: Path, needed: int, *, advice: str = _ADVICE) -> None:
    """Raise DiskFull when the disk of `folder` has fewer than `needed` bytes free."""
    if needed > free_bytes(folder):
        raise disk_full(folder, needed, advice)


def disk_full(folder: Path, needed: int, advice: str = _ADVICE) -> DiskFull:
    """The error for a disk without room for `needed` more bytes."""
    return DiskFull(
        f"{needed:,} bytes are still to be written under {shown(str(folder))}, and its disk has "
        f"{free_bytes(folder):,} bytes free. {advice}"
    )
