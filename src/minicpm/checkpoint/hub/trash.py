"""Removes folders of the cache in two steps, so that a reader or a crash never meets a half-removed one."""

import os
import secrets
import shutil
from pathlib import Path

from minicpm.checkpoint.hub.home import cache_home


def discard(folder: Path) -> None:
    """Take `folder` out of the cache at once by renaming it, then delete it; fine when there is none."""
    if not folder.exists():
        return
    trash = _trash()
    trash.mkdir(exist_ok=True)
    aside = trash / f"{folder.name}-{secrets.token_hex(4)}"
    os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def empty_trash() -> None:
    """Delete what a killed removal left; the folder itself stays, for others may be using it."""
    for entry in _trash().glob("*"):
        shutil.rmtree(entry, ignore_errors=True)


def _trash() -> Path:
    return cache_home() / "trash"
