"""What a conversion wrote, or would write."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where it is, the bytes of each file by name, and what a user should know of it."""

    path: Path
    files: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def sizes_in(folder: Path) -> dict[str, int]:
    """The files of a folder and their bytes, by name."""
    return {entry.name: entry.stat().st_size for entry in sorted(folder.iterdir()) if entry.is_file()}
