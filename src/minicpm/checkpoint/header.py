"""Reads and checks the header of a safetensors file, without torch and without touching a tensor."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from minicpm.checkpoint.files import shown
from minicpm.errors import MalformedFile, TruncatedFile

# Bytes per element of every number format accepted in a file.
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

# The largest header of the family is under 1 MiB; these bound what a hostile file can cost.
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: shape, safetensors dtype, file, first byte and byte count.

    With `paired`, its rows lie as so many heads of pairs (`row_order`); they are read as published.
    """

    shape: tuple[int, ...]
    dtype: str
    file: Path
    offset: int
    nbytes: int
    paired: int | None = None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file, in the order of its header.

    Raises TruncatedFile when the file is shorter or longer than the header says, MalformedFile when the
    header itself is not sound.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = _header_length(file.read(8), size, path)
        text = file.read(length)
    entries = _parse(text, path)
    start = 8 + length
    tensors = {name: _tensor(name, entry, path, start) for name, entry in entries.items()}
    _check_layout(tensors, start, size, path)
    return tensors


def _header_length(first: bytes, size: int, path: Path) -> int:
    if len(first) < 8:
        raise _truncated(path, f"at least 8 bytes for its header length, it has {size}")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        raise _malformed(
            path, f"announces a header of {length} bytes, more than the {MAX_HEADER_BYTES} accepted"
        )
    if 8 + length > size:
        raise _truncated(path, f"{8 + length} bytes for its header alone, it has {size}")
    return length


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"has a header that is not sound JSON ({shown(str(error))})") from error
    if not isinstance(entries, dict):
        raise _malformed(path, "has a header that is not a JSON object")
    entries.pop("__metadata__", None)
    if len(entries) > MAX_TENSORS:
        raise _malformed(path, f"holds {len(entries)} tensors, more than the {MAX_TENSORS} accepted")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name appears twice")
    return unique


def _tensor(name: str, entry: Any, path: Path, start: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _malformed(path, f"describes tensor {shown(name)} by something other than an object")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _malformed(path, f"gives tensor {shown(name)} the unknown dtype {shown(repr(dtype))}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _malformed(path, f"gives tensor {shown(name)} no sound shape or offsets")
    nbytes = prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise _malformed(
            path,
            f"gives tensor {shown(name)} {offsets[1] - offsets[0]} bytes where its shape and dtype take "
            f"{nbytes}",
        )
    return TensorInfo(tuple(shape), dtype, path, start + offsets[0], nbytes)


def _counts(value: Any) -> bool:
    """True for a list of plain integers >= 0."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(tensors: dict[str, TensorInfo], start: int, size: int, path: Path) -> None:
    """Tensors must fill the file from the header to its end, without a hole or an overlap."""
    end = start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if info.offset != end:
            kind = "overlaps another tensor" if info.offset < end else "follows a hole"
            raise _malformed(path, f"places tensor {shown(name)} at byte {info.offset}, where it {kind}")
        end += info.nbytes
    if end != size:
        raise _truncated(path, f"{end} bytes, it has {size}")


def _malformed(path: Path, what: str) -> MalformedFile:
    return MalformedFile(f"{shown(str(path))} {what}. It is not a sound safetensors file; fetch it again.")


def _truncated(path: Path, what: str) -> TruncatedFile:
    return TruncatedFile(
        f"{shown(str(path))} should have {what}. The copy or download was cut or altered; fetch the file "
        "again."
    )
