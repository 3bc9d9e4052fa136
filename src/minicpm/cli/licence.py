"""Finds out under what licence a model folder is."""

from pathlib import Path

from minicpm.checkpoint.files import inside, shown

_HEAD_BYTES = 64 << 10
_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md")


def licence_of(folder: Path) -> str | None:
    """The `license:` of the model card, else the first line of the licence file, else None."""
    return _from_card(_head(folder, "README.md")) or _from_file(folder)


def _from_card(card: str) -> str | None:
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        key, colon, value = line.partition(":")
        if colon and key == "license" and value.strip():
            return shown(value.strip().strip("\"'"), 100)
    return None


def _from_file(folder: Path) -> str | None:
    for name in _FILES:
        first = next((line.strip() for line in _head(folder, name).splitlines() if line.strip()), None)
        if first is not None:
            return shown(first, 100)
    return None


def _head(folder: Path, name: str) -> str:
    path = inside(folder, name)
    if path is None:
        return ""
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES).decode("utf-8", errors="replace")
