"""The chunks of a WebP file (RFC 9649)."""

from collections.abc import Iterator

from minicpm.text.images.container import Container, broken, cut_short


def is_webp(data: bytes) -> bool:
    """Whether the file begins as WebP files do."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp(data: bytes) -> Container:
    """The container of a WebP file; raises BadImage."""
    size, exif = None, b""
    for kind, body in _chunks(data):
        if size is None:
            size = _size(kind, body)
        if kind == b"EXIF":
            exif = body.removeprefix(b"Exif\0\0")
    if size is None:
        raise broken("WebP")
    return Container("WEBP", *size, data, exif)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, body) of every chunk; bodies are padded to an even length."""
    last = 8 + int.from_bytes(data[4:8], "little")
    if last > len(data):
        raise cut_short("WebP")
    start = 12
    while start + 8 <= last:
        end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if end > last:
            raise cut_short("WebP")
        yield data[start : start + 4], data[start + 8 : end]
        start = end + end % 2


def _size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Width and height from the first chunk, which is one of three kinds."""
    if kind == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise broken("WebP")
