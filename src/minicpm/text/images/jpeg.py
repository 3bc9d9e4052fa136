"""The segments of a JPEG file (ITU-T T.81, annex B)."""

from collections.abc import Iterator

from minicpm.text.images.container import Container, broken, cut_short

SIGNATURE = b"\xff\xd8\xff"
_SCAN = 0xDA
_END = 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_COMMENT = 0xFE
_EXIF = 0xE1
# JFIF and Adobe say how colours are coded; the other application segments are metadata.
_METADATA = {*range(0xE1, 0xF0), _COMMENT} - {0xEE}
_EXIF_MARK = b"Exif\0\0"


def read_jpeg(data: bytes) -> Container:
    """The container of a JPEG file; raises BadImage."""
    kept, exif, size = [SIGNATURE[:2]], b"", None
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if marker == _EXIF and body.startswith(_EXIF_MARK):
            exif = exif or body[len(_EXIF_MARK) :]
        if marker in _FRAMES:
            size = size or _size(body)
        if marker not in _METADATA:
            kept.append(data[start:end])
    if size is None:
        raise broken("JPEG")
    return Container("JPEG", *size, b"".join(kept), exif)


def _size(frame: bytes) -> tuple[int, int]:
    if len(frame) < 5:
        raise broken("JPEG")
    return int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3])


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of every segment; the first scan goes on to the end of the file."""
    start = 2
    while True:
        while data[start + 1 : start + 2] == b"\xff":  # markers may be preceded by any number of these
            start += 1
        head = data[start : start + 4]
        if len(head) < 4:
            raise cut_short("JPEG")
        if head[0] != 0xFF or head[1] in (0x00, _END):
            raise broken("JPEG")
        if head[1] == _SCAN:
            yield _SCAN, start, len(data)
            return
        end = start + 2
        if head[1] not in _ALONE:
            end += int.from_bytes(head[2:4])
            if end > len(data):
                raise cut_short("JPEG")
            yield head[1], start, end
        start = end
