"""One file that holds matrices as the kernels want them, so that a start need not round and repack them.

    0        magic, bytes and crc32 of the header
    16       the header, JSON: what the matrices were made of, and where each lies
    data     the matrices, each at a multiple of 64 bytes; the first at a multiple of 64 KiB
    end      the size of the file

It is a cache: whatever is wrong with one, it is made again, so nobody but a log is told what that was.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from minicpm.checkpoint.atomic import new_file
from minicpm.checkpoint.lock import is_abandoned

_MAGIC = b"MCPMPACK"
_PRELUDE = struct.Struct("<8sII")
_START, _ALIGNED = 1 << 16, 64  # a page of any system; what the kernels ask of an address
_LONGEST_HEADER = 1 << 26
_CHUNK = 1 << 20  # read and summed while it is in the processor's cache


class Unusable(Exception):
    """Why a file cannot be used; never leaves the package."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Some bytes of the file: the modules they are for, what they are, where they lie, and their crc32."""

    names: tuple[str, ...]
    what: Mapping[str, Any]
    offset: int
    nbytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes to be written; `parts` follow each other."""

    names: tuple[str, ...]
    what: Mapping[str, Any]
    parts: Sequence[memoryview]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)


def write(path: Path, made_of: Mapping[str, Any], pieces: Sequence[Piece]) -> None:
    """Write beside, sync, rename; OSError for what the system refuses, and then nothing is left behind."""
    header, start = _header(made_of, pieces)
    _sweep(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.write(_PRELUDE.pack(_MAGIC, len(header), zlib.crc32(header)))
        file.write(header)
        file.seek(start)
        for piece in pieces:
            for part in piece.parts:
                file.write(part)
            file.seek(-piece.nbytes % _ALIGNED, os.SEEK_CUR)
        file.truncate(file.tell())


def size_of(pieces: Iterable[Piece]) -> int:
    """Bytes of a file with these, within one start."""
    return _START + sum(_aligned(piece.nbytes) for piece in pieces)


class PackedFile:
    """A file whose header is sound: what it was made of, and its entries."""

    def __init__(self, path: Path) -> None:
        """Raises Unusable for what is no whole file of this format."""
        self._path = path
        try:
            with path.open("rb") as file:
                self.made_of, self.entries = _read_header(file)
        except OSError as error:
            raise Unusable(f"it cannot be read ({error.strerror})") from error
        except (KeyError, TypeError, ValueError) as error:
            raise Unusable(f"its header is of another kind ({error})") from error

    @property
    def data_bytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.nbytes for entry in self.entries)

    def fill(self, wanted: Sequence[tuple[Entry, Sequence[memoryview]]], *, threads: int) -> None:
        """Read entries into memory, several at a time; Unusable when one is not what was written."""
        with ThreadPoolExecutor(max(1, threads)) as pool:
            sound = list(pool.map(lambda one: _fill(self._path, *one), wanted))
        if not all(sound):
            raise Unusable(f"{sound.count(False)} of its {len(sound)} matrices are damaged")


def _fill(path: Path, entry: Entry, parts: Sequence[memoryview]) -> bool:
    """Read one entry; False when that fails or its bytes are not those that were written."""
    assert entry.nbytes == sum(part.nbytes for part in parts), f"{entry.names} are of another size"
    crc32 = 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            for part in parts:
                for first in range(0, part.nbytes, _CHUNK):
                    chunk = part[first : first + _CHUNK]
                    if not _read_whole(file, chunk):
                        return False
                    crc32 = zlib.crc32(chunk, crc32)
    except OSError:
        return False
    return crc32 == entry.crc32


def _read_whole(file: FileIO, out: memoryview) -> bool:
    done = 0
    while done < out.nbytes:
        count = file.readinto(out[done:])
        if not count:
            return False
        done += count
    return True


def _header(made_of: Mapping[str, Any], pieces: Sequence[Piece]) -> tuple[bytes, int]:
    """The header and where data starts, which its offsets, counted from there, do not depend on."""
    entries, end = [], 0
    for piece in pieces:
        entries.append(asdict(Entry(piece.names, piece.what, end, piece.nbytes, _crc32(piece.parts))))
        end = _aligned(end + piece.nbytes)
    text = json.dumps({"made_of": made_of, "entries": entries, "data_bytes": end}).encode()
    return text, _start(len(text))


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], tuple[Entry, ...]]:
    prelude = file.read(_PRELUDE.size)
    if len(prelude) < _PRELUDE.size:
        raise Unusable("it is cut")
    magic, length, crc32 = _PRELUDE.unpack(prelude)
    if magic != _MAGIC or length > _LONGEST_HEADER:
        raise Unusable("it is no file of packed weights")
    text = file.read(length)
    if len(text) < length or zlib.crc32(text) != crc32:
        raise Unusable("its header is damaged")
    header, start = json.loads(text), _start(length)
    size = os.fstat(file.fileno()).st_size
    if size != start + header["data_bytes"]:
        raise Unusable(f"it has {size} bytes, and {start + header['data_bytes']} are needed")
    entries = [Entry(**entry) for entry in header["entries"]]
    return header["made_of"], tuple(
        replace(e, names=tuple(e.names), offset=start + e.offset) for e in entries
    )


def _crc32(parts: Iterable[memoryview]) -> int:
    crc32 = 0
    for part in parts:
        crc32 = zlib.crc32(part, crc32)
    return crc32


def _start(header_bytes: int) -> int:
    return -(-(_PRELUDE.size + header_bytes) // _START) * _START


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED


def _sweep(path: Path) -> None:
    """Remove what writers of the same file left when they were killed."""
    for entry in path.parent.glob(f".{path.name}.*"):
        if is_abandoned(entry):
            entry.unlink(missing_ok=True)
