"""The chunks of a PNG file (ISO/IEC 15948, clause 5)."""

from collections.abc import Iterator

from minicpm.text.images.container import Container, broken, cut_short

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANCILLARY = 0x20  # set in the first letter of a chunk that a decoder may skip


def read_png(data: bytes) -> Container:
    """The container of a PNG file; raises BadImage."""
    kept, exif, header = [SIGNATURE], b"", b""
    for kind, start, end in _chunks(data):
        body = data[start + 8 : end - 4]
        if not header and (kind != b"IHDR" or len(body) != 13):
            raise broken("PNG")
        header = header or body
        if kind == b"eXIf":
            exif = body
        elif kind == b"tRNS" or not kind[0] & _ANCILLARY:
            kept.append(data[start:end])
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    return Container("PNG", width, height, b"".join(kept), exif)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of every chunk through IEND; a chunk is length, type, body, checksum."""
    start = len(SIGNATURE)
    while True:
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4])
        if len(kind) < 4 or end > len(data):
            raise cut_short("PNG")
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
