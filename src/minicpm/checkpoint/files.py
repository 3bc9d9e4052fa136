"""Reaches the files of a model folder safely: bare names only, nothing outside the folder, no pointers."""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minicpm.errors import BadConfig, CheckpointError, LfsPointer, NotACheckpoint

_LFS_MARK = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES = 1024
MAX_JSON_BYTES = 64 << 20


def shown(text: str, limit: int = 300) -> str:
    """Text from a file or a name, fit for a message: control characters escaped, long text cut."""
    clean = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return clean if len(clean) <= limit else clean[:limit] + "…"


def listed(items: Iterable[str], limit: int = 20) -> str:
    """Items in the order given, joined by commas, shortened to `limit` with the number left out."""
    every = [shown(item, 120) for item in items]
    rest = len(every) - limit
    return ", ".join(every[:limit]) + (f", and {rest} more" if rest > 0 else "")


def is_bare_name(name: str) -> bool:
    """True for a plain file name: no separator, no parent, no drive, nothing unprintable."""
    return bool(name) and name not in {".", ".."} and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def file_names(folder: Path) -> list[str]:
    """Names of everything in the folder, sorted."""
    return sorted(entry.name for entry in folder.iterdir())


def inside(folder: Path, name: str) -> Path | None:
    """The regular file `name` of a model folder, or None when there is none.

    Raises CheckpointError for a name that is no bare file name and for a link that leaves the folder. The
    links of a Hugging Face cache snapshot may point into the same repository's blobs.
    """
    if not is_bare_name(name):
        raise CheckpointError(
            f"{shown(str(folder))} refers to a file {shown(repr(name))}. File names there may not hold "
            "separators or parents, because that could reach outside the folder; the folder is refused. "
            "Fetch the model again."
        )
    path = folder / name
    if not path.exists():
        return None
    real = path.resolve()
    if not real.is_relative_to(_allowed_root(folder.resolve())):
        raise CheckpointError(
            f"{shown(str(path))} is a link to {shown(str(real))}, outside the model's folder, and is "
            "refused. Copy the file into the folder if you trust it."
        )
    if not stat.S_ISREG(real.stat().st_mode):
        raise CheckpointError(
            f"{shown(str(path))} is not a regular file, so it cannot be read as part of a model."
        )
    return path


def _allowed_root(folder: Path) -> Path:
    in_hf_cache = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    return folder.parent.parent if in_hf_cache else folder


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises BadConfig, naming the file, for anything else."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise BadConfig(
            f"{shown(str(path))} has {size} bytes, more than the {MAX_JSON_BYTES} accepted for such a file."
        )
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadConfig(
            f"{shown(str(path))} is not valid JSON ({shown(str(error))}). Correct it or fetch it again."
        ) from error
    if not isinstance(value, dict):
        raise BadConfig(
            f"{shown(str(path))} holds a JSON {type(value).__name__} where an object is needed. "
            "Correct it or fetch it again."
        )
    return value


def refuse_pointers(paths: Iterable[Path]) -> None:
    """Raise LfsPointer, naming every one, when files are Git-LFS pointers instead of content."""
    pointers = [path for path in paths if _is_pointer(path)]
    if pointers:
        folder = pointers[0].parent
        raise LfsPointer(
            f"In {shown(str(folder))} these files are Git-LFS pointers, small texts that stand for files "
            f"never fetched: {listed(path.name for path in pointers)}. Run `git lfs pull` in the folder, or "
            "fetch the model with `minicpm pull ORG/NAME`."
        )


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > _LFS_POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_MARK)) == _LFS_MARK


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Raise CheckpointError for what the system says about reads under `folder`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{shown(str(error.filename or folder))} cannot be read ({shown(error.strerror or str(error))}). "
            "Check its permissions and its disk."
        ) from error


def require_folder(path: Path) -> Path:
    """`path` itself when it is a folder; raises NotACheckpoint otherwise."""
    if os.path.isdir(path):
        return path
    what = "is a file" if os.path.exists(path) else "does not exist"
    raise NotACheckpoint(
        f"{shown(str(path))} {what}; a model is a folder with config.json and safetensors files. "
        "Give the folder that holds them."
    )
