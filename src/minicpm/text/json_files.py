"""Reads the small JSON files beside a tokenizer, refusing what is not a JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minicpm.errors import TokenizerError

MAX_BYTES = 64 << 20


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, {} where there is no such file; raises TokenizerError."""
    text = read_text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"{path} is not readable JSON ({error}). Fetch the file again from where the model was published."
        ) from error
    if not isinstance(value, dict):
        raise TokenizerError(
            f"{path} holds a JSON {type(value).__name__}, not an object. Fetch the file again."
        )
    return value


def read_text(path: Path) -> str | None:
    """The text of `path`, None where there is no such file; raises TokenizerError."""
    data = read_bytes(path, MAX_BYTES)
    if data is None:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 text ({error}). Fetch the file again.") from error


def read_bytes(path: Path, limit: int) -> bytes | None:
    """At most `limit` bytes of `path`, None where there is no such file; raises TokenizerError."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenizerError(
            f"{path} cannot be read: {error.strerror}. Check the file and its rights."
        ) from error
    if len(data) > limit:
        raise TokenizerError(f"{path} is larger than {limit >> 20} MiB, more than such a file can need.")
    return data
