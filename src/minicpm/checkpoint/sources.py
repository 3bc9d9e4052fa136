"""Tells whether weight files are those that something was made of, mostly without reading them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from minicpm.checkpoint.atomic import write_file
from minicpm.checkpoint.hub.manifest import FileRecord, read_manifest, sha256_of

Stamps = Mapping[str, tuple[int, int]]
"""Size in bytes and time of the last change in nanoseconds, by a file's name."""


def stamps_of(files: Sequence[Path]) -> Stamps:
    """What the system says of files now; OSError for one that is gone."""
    found = {file.name: file.stat() for file in files}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def records_of(folder: Path, files: Sequence[Path]) -> dict[str, FileRecord]:
    """Size and sha256 of each file: those it was pulled with, or what its content gives."""
    manifest = read_manifest(folder)
    known = {} if manifest is None else manifest.files
    return {
        file.name: known.get(file.name) or FileRecord(file.stat().st_size, sha256_of(file)) for file in files
    }


def are_those(files: Sequence[Path], records: Mapping[str, FileRecord], note: Path) -> bool:
    """True when the files have this content.

    `note` holds their stamps from when that was last known. Where it is silent or differs, the files are
    read, and it is written anew.
    """
    if {file.name for file in files} != records.keys():
        return False
    stamps = stamps_of(files)
    if any(stamps[name][0] != record.size for name, record in records.items()):
        return False
    if _read_note(note) == _note(stamps, records):
        return True
    if any(sha256_of(file) != records[file.name].sha256 for file in files):
        return False
    write_note(note, stamps, records)
    return True


def write_note(note: Path, stamps: Stamps, records: Mapping[str, FileRecord]) -> None:
    """Keep that files with these stamps have this content; without a word where that is refused.

    A missing note costs time only.
    """
    try:
        write_file(note, json.dumps(_note(stamps, records)).encode())
    except OSError:
        return


def _note(stamps: Stamps, records: Mapping[str, FileRecord]) -> dict[str, list[int | str]]:
    return {name: [*stamps[name], record.sha256] for name, record in records.items()}


def _read_note(note: Path) -> object:
    """The note, or None when there is none or it is damaged."""
    try:
        return json.loads(note.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
