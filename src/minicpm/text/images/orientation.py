"""How a camera was held, from the EXIF part of its picture (CIPA DC-008, tag 274)."""

from typing import Literal

_TAG = 0x0112
_SHORT = 3
_ENTRY = 12
UPRIGHT = 1


def orientation(exif: bytes) -> int:
    """1 to 8 as EXIF numbers them; 1, upright, where it does not say or cannot be read."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return UPRIGHT
    value = _find(exif, _TAG, "little" if exif[:2] == b"II" else "big")
    return value if 1 <= value <= 8 else UPRIGHT


def _find(exif: bytes, tag: int, order: Literal["little", "big"]) -> int:
    """The short integer stored under `tag` in the first directory, or 0."""

    def number(start: int, width: int) -> int:
        part = exif[start : start + width]
        return int.from_bytes(part, order) if len(part) == width else 0

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + _ENTRY * number(directory, 2), _ENTRY):
        if number(entry, 2) == tag:
            return number(entry + 8, 2) if number(entry + 2, 2) == _SHORT else 0
    return 0
