"""The list of sha256 sums that makes a pulled folder complete; readers trust nothing without it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minicpm.checkpoint.atomic import write_file
from minicpm.checkpoint.files import is_bare_name
from minicpm.checkpoint.hub.names import is_commit, is_sha256

NAME = "minicpm-manifest.json"
PACKED = "minicpm-packed-"
"""What names of files begin with that were made of a pulled model and lie beside it."""
_FORMAT = 1
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size in bytes and sha256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was pulled: from which repository of which hub, at which revision and commit, and every file."""

    repo: str
    endpoint: str
    revision: str
    commit: str
    files: Mapping[str, FileRecord]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest at once, after all files of the folder are on the disk."""
    text = json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1, sort_keys=True)
    write_file(folder / NAME, text.encode())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a complete folder: sound, and every file there with its size; None otherwise."""
    try:
        value = json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    manifest = _parse(value)
    return manifest if manifest is not None and _all_there(folder, manifest) else None


def _parse(value: Any) -> Manifest | None:
    if not isinstance(value, dict) or value.get("format") != _FORMAT or not is_commit(value.get("commit")):
        return None
    texts = [value.get(key) for key in ("repo", "endpoint", "revision", "commit")]
    files = value.get("files")
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in texts):
        return None
    if not all(is_bare_name(name) and _is_record(record) for name, record in files.items()):
        return None
    records = {name: FileRecord(record["size"], record["sha256"]) for name, record in files.items()}
    return Manifest(value["repo"], value["endpoint"], value["revision"], value["commit"], records)


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and type(record.get("size")) is int and is_sha256(record.get("sha256"))


def _all_there(folder: Path, manifest: Manifest) -> bool:
    try:
        return all((folder / name).stat().st_size == record.size for name, record in manifest.files.items())
    except OSError:
        return False


def damaged_files(folder: Path, manifest: Manifest) -> list[str]:
    """Names of files whose content no longer has the recorded sha256; reads everything."""
    return [
        name for name, record in sorted(manifest.files.items()) if sha256_of(folder / name) != record.sha256
    ]


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in lowercase hexadecimal."""
    return _digest(path, hashlib.sha256())


def git_blob_of(path: Path) -> str:
    """The id git gives a file's content: sha1 over a header with its length, then the content."""
    header = b"blob %d\0" % path.stat().st_size
    return _digest(path, hashlib.sha1(header, usedforsecurity=False))


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
