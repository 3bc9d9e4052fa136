"""A list of sha256 sums beside what was written, in the form that `sha256sum --check` reads."""

from pathlib import Path

from minicpm.checkpoint.atomic import write_file
from minicpm.checkpoint.hub.manifest import sha256_of

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """List every file of the folder; what is listed has been read back."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names]
    write_file(folder / SUMS, "".join(lines).encode())
