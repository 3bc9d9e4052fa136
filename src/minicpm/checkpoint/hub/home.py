"""Where pulled models are kept, and what to say when that place cannot be written."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from minicpm.checkpoint import disk
from minicpm.checkpoint.hub.names import HubName
from minicpm.errors import CacheNotWritable

_ADVICE = (
    "Free some room (`minicpm list` and `minicpm rm` help), or set MINICPM_HOME to another folder that can "
    "be written; what was fetched is kept."
)


def cache_home() -> Path:
    """$MINICPM_HOME, else $XDG_CACHE_HOME/minicpm, else ~/.cache/minicpm; nothing is created.

    Raises CacheNotWritable when there is neither a variable nor a home folder.
    """
    chosen = os.environ.get("MINICPM_HOME")
    if chosen:
        return Path(chosen).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says to ignore a relative path.
    if xdg and os.path.isabs(xdg):
        return Path(xdg) / "minicpm"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise CacheNotWritable(
            "There is no home folder here (HOME is not set), so there is no place to keep pulled models. "
            "Set MINICPM_HOME to a folder that can be written."
        )
    return Path(home) / ".cache" / "minicpm"


def models_home() -> Path:
    """The folder that holds one folder per pulled repository."""
    return cache_home() / "models"


def repo_folder(name: HubName) -> Path:
    """The folder of one repository, which holds a folder per commit."""
    return models_home() / name.folder


def lock_file(name: HubName) -> Path:
    """The lock of one repository; it lies outside the repository's folder, so removing that keeps it."""
    return cache_home() / "locks" / f"{name.folder}.lock"


def writing(folder: Path, *, needed: int = 0) -> AbstractContextManager[None]:
    """`disk.writing` with advice for the cache."""
    return disk.writing(folder, needed=needed, refused=CacheNotWritable, advice=_ADVICE)


def require_room(folder: Path, needed: int) -> None:
    """`disk.require_room` with advice for the cache."""
    disk.require_room(folder, needed, advice=_ADVICE)
