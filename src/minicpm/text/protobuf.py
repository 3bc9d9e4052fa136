"""A bounded reader of the protobuf wire format, enough for SentencePiece files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message: an int for varints, else the raw bytes."""

    number: int
    value: int | bytes


def fields(message: bytes) -> Iterator[Field]:
    """Yields the fields of `message` in order; raises ValueError where it is not well formed."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value, position = _value(message, position, key & 7)
        yield Field(key >> 3, value)


def _value(message: bytes, position: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == _VARINT:
        return _varint(message, position)
    if wire_type == _BYTES:
        size, position = _varint(message, position)
    elif wire_type in (_FIXED32, _FIXED64):
        size = 4 if wire_type == _FIXED32 else 8
    else:
        raise ValueError(f"wire type {wire_type} at byte {position} is not in use")
    if position + size > len(message):
        raise ValueError(f"a field of {size} bytes at byte {position} runs past the end at {len(message)}")
    return message[position : position + size], position + size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(message):
            raise ValueError("the file ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError(f"a number before byte {position} is longer than 10 bytes")


def as_float(value: int | bytes) -> float:
    """A 32-bit float field; raises ValueError for any other kind of field."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("a score is not a 32-bit float")
    (number,) = struct.unpack("<f", value)
    return float(number)
