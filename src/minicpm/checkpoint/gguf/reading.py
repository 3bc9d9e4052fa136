"""Reads and checks the header of a GGUF file, without torch and without touching a tensor."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from minicpm.checkpoint.files import readable, refuse_pointers, shown
from minicpm.checkpoint.gguf.cursor import Cursor
from minicpm.checkpoint.gguf.pairs import ArrayOfNumbers, read_numbers, read_pairs
from minicpm.checkpoint.gguf.types import BLOCK_TYPES, OTHER_TYPES, BlockType
from minicpm.checkpoint.gguf.values import Value
from minicpm.errors import CheckpointError, TruncatedFile

MAGIC = b"GGUF"
MAX_ENTRIES = 100_000
_VERSIONS = (2, 3)
_RANKS = range(1, 5)
_NAME_BYTES = 64
_ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
# The least a metadata pair or the description of a tensor takes: a length, one letter, and the numbers.
_PAIR_BYTES = 8 + 1 + 4 + 1
_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies: shape as [outputs, inputs], type, file, first byte in it and byte count."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What the header of a file says; tensors are in the order of the file."""

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as described: `at` is where in the header, `place` counts from the start of all tensors."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    place: int
    at: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


def read_gguf(path: Path) -> GgufFile:
    """The metadata and tensors of a file of version 2 or 3, little-endian.

    Raises TruncatedFile when the file is shorter than it says, LfsPointer for a pointer, CheckpointError for
    a type of weights that is not supported, and MalformedFile, with the byte, for anything else.
    """
    with readable(path):
        if not path.is_file():
            raise CheckpointError(f"{shown(str(path))} is not a file, so it cannot be read as GGUF.")
        refuse_pointers([path])
        with path.open("rb", buffering=1 << 16) as file:
            return _read(file, path.stat().st_size, path)


def _read(file: BinaryIO, size: int, path: Path) -> GgufFile:
    cursor = Cursor(file, size, path)
    version = _version(cursor)
    tensor_count = _count(cursor, "tensors", _TENSOR_BYTES)
    pair_count = _count(cursor, "metadata pairs", _PAIR_BYTES)
    pairs = read_pairs(cursor, pair_count)
    alignment = _alignment(cursor, pairs)
    entries = _entries(cursor, tensor_count)
    start = -(-cursor.offset // alignment) * alignment
    _check_places(cursor, entries, alignment)
    tensors = {
        name: GgufTensor(name, entry.shape, entry.type, path, start + entry.place, entry.nbytes)
        for name, entry in entries.items()
    }
    _check_end(tensors.values(), size, path)
    metadata = {
        key: read_numbers(cursor, value) if isinstance(value, ArrayOfNumbers) else value
        for key, value in pairs.items()
    }
    return GgufFile(path, version, alignment, metadata, tensors)


def _version(cursor: Cursor) -> int:
    magic = cursor.take(4, "the mark of the format")
    if magic != MAGIC:
        raise cursor.malformed(f"starts with {magic!r} where GGUF files have {MAGIC!r}", 0)
    version = cursor.u32("the version")
    if version in _VERSIONS:
        return version
    if version & 0xFFFF == 0 and version:
        what = "is written for processors with the bytes of numbers in the other order (big-endian)"
    elif version == 1:
        what = "is of version 1 of the format, which no converter has written since 2023"
    else:
        what = f"is of version {version} of the format"
    raise cursor.malformed(f"{what}; versions 2 and 3, little-endian, are read", 4)


def _count(cursor: Cursor, what: str, least: int) -> int:
    at = cursor.offset
    count = cursor.u64(f"the number of {what}")
    if count > MAX_ENTRIES:
        raise cursor.malformed(f"announces {count} {what}, more than the {MAX_ENTRIES} accepted", at)
    cursor.require(count * least, f"a list of {count} {what}")
    return count


def _alignment(cursor: Cursor, pairs: Mapping[str, Value | ArrayOfNumbers]) -> int:
    value = pairs.get(_ALIGNMENT, _DEFAULT_ALIGNMENT)
    if type(value) is not int or not 0 < value <= _MAX_ALIGNMENT or value & (value - 1):
        raise cursor.malformed(
            f"asks for an alignment of {shown(repr(value))}, where a power of two up to {_MAX_ALIGNMENT} is "
            "accepted"
        )
    return value


def _entries(cursor: Cursor, count: int) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for _ in range(count):
        entry = _entry(cursor)
        if not entry.name or entry.name in entries:
            state = "twice" if entry.name else "without a name"
            raise cursor.malformed(f"has the tensor {shown(repr(entry.name))} {state}", entry.at)
        entries[entry.name] = entry
    return entries


def _entry(cursor: Cursor) -> _Entry:
    at = cursor.offset
    name = cursor.text("the name of a tensor", _NAME_BYTES)
    what = f"tensor {shown(repr(name))}"
    rank = cursor.u32(what)
    if rank not in _RANKS:
        raise cursor.malformed(f"gives {what} {rank} dimensions, where 1 to 4 are accepted", at)
    sizes = [cursor.u64(what) for _ in range(rank)]
    if 0 in sizes:
        raise cursor.malformed(f"gives {what} the empty shape {sizes}", at)
    type = _block_type(cursor, what)
    if sizes[0] % type.block:
        raise cursor.malformed(
            f"gives {what} rows of {sizes[0]} weights in {type.name}, whose blocks hold {type.block}", at
        )
    return _Entry(name, tuple(reversed(sizes)), type, cursor.u64(what), at)


def _block_type(cursor: Cursor, what: str) -> BlockType:
    at = cursor.offset
    number = cursor.u32(what)
    if number in OTHER_TYPES:
        raise CheckpointError(
            f"{cursor.name} holds {what} as {OTHER_TYPES[number]}, which is not supported. Take a file of "
            f"another type: {', '.join(type.name for type in BLOCK_TYPES.values())} are read."
        )
    if number not in BLOCK_TYPES:
        raise cursor.malformed(f"gives {what} the unknown type {number}", at)
    return BLOCK_TYPES[number]


def _check_places(cursor: Cursor, entries: Mapping[str, _Entry], alignment: int) -> None:
    """Tensors must be aligned and must not overlap; holes between them are harmless."""
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.place, entry.nbytes)):
        if entry.place % alignment or entry.place < end:
            fault = "overlaps another" if entry.place < end else f"is no multiple of {alignment}"
            raise cursor.malformed(
                f"places tensor {shown(repr(entry.name))} {entry.place} bytes into its data, which {fault}",
                entry.at,
            )
        end = entry.place + entry.nbytes


def _check_end(tensors: Iterable[GgufTensor], size: int, path: Path) -> None:
    beyond = [tensor for tensor in tensors if tensor.offset + tensor.nbytes > size]
    if not beyond:
        return
    last = max(beyond, key=lambda tensor: tensor.offset + tensor.nbytes)
    raise TruncatedFile(
        f"{shown(str(path))} has {size} bytes, and {len(beyond)} of its tensors lie beyond them: "
        f"{shown(repr(last.name))} begins at byte {last.offset} and takes {last.nbytes}. The copy or "
        "download was cut or altered; fetch the file again."
    )
