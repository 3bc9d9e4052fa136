"""Walks through the header of a file, and takes nothing that the file does not have."""

from pathlib import Path
from typing import BinaryIO

from minicpm.checkpoint.files import shown
from minicpm.errors import MalformedFile, TruncatedFile

# A vocabulary of a million tokens takes about 30 MB; these bound what a hostile file can cost.
MAX_HEADER_BYTES = 256 << 20
MAX_STRING_BYTES = 16 << 20


class Cursor:
    """A place in a file of known size. Every step is compared with what is left before it is taken."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        """Start at the first byte; `path` is named in errors."""
        self.offset = 0
        self._file = file
        self._size = size
        self.name = shown(str(path))

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes; TruncatedFile, saying what they were to be, when the file ends before."""
        self.require(count, what)
        data = self._file.read(count)
        if len(data) != count:
            raise self._truncated(count, what, self.offset + len(data))
        self.offset += count
        return data

    def skip(self, count: int, what: str) -> None:
        """Go on by `count` bytes without reading them."""
        self.require(count, what)
        self.go_to(self.offset + count)

    def go_to(self, offset: int) -> None:
        """Stand at a byte that was passed before."""
        self._file.seek(offset)
        self.offset = offset

    def require(self, count: int, what: str) -> None:
        """Raise unless `count` more bytes are there and within what a header may take."""
        end = self.offset + count
        if end > self._size:
            raise self._truncated(count, what, self._size)
        if end > MAX_HEADER_BYTES:
            raise self.malformed(f"has a header of more than the {MAX_HEADER_BYTES} bytes accepted")

    def u32(self, what: str) -> int:
        """The next four bytes as a number."""
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        """The next eight bytes as a number."""
        return int.from_bytes(self.take(8, what), "little")

    def text(self, what: str, limit: int = MAX_STRING_BYTES) -> str:
        """A length of eight bytes, then as many of UTF-8."""
        start = self.offset
        length = int.from_bytes(self.take(8, what), "little")
        if length > limit:
            raise self.malformed(
                f"gives {what} a length of {length} bytes, more than the {limit} accepted", start
            )
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise self.malformed(
                f"holds {what} that is not UTF-8 ({error.reason})", start + 8 + error.start
            ) from error

    def malformed(self, what: str, at: int | None = None) -> MalformedFile:
        """The error for a file that does `what` at this byte."""
        return MalformedFile(
            f"{self.name} {what}, at byte {self.offset if at is None else at}. It is not a sound "
            "GGUF file; fetch or convert it again."
        )

    def _truncated(self, count: int, what: str, end: int) -> TruncatedFile:
        return TruncatedFile(
            f"{self.name} ends at byte {end}, and {what} at byte {self.offset} needs {count} "
            "bytes. The copy or download was cut or altered; fetch the file again."
        )
