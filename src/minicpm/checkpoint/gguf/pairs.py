"""Reads the metadata of a GGUF header: pairs of a key and a value of a stated kind."""

import struct
from dataclasses import dataclass
from typing import Any

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.gguf.cursor import Cursor
from minicpm.checkpoint.gguf.values import FORMATS, Kind, Value

MAX_ELEMENTS = 64 << 20
"""Of all arrays of a file together."""
_KEY_BYTES = 65_535
_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class ArrayOfNumbers:
    """An array that was stepped over; in memory it would take many times its bytes in the file.

    It is read by `read_numbers` when all else has been found sound.
    """

    kind: Kind
    count: int
    offset: int
    what: str


def read_pairs(cursor: Cursor, count: int) -> dict[str, Value | ArrayOfNumbers]:
    """The next `count` pairs of metadata; MalformedFile or TruncatedFile where they are not sound."""
    pairs: dict[str, Value | ArrayOfNumbers] = {}
    room = MAX_ELEMENTS
    for _ in range(count):
        at = cursor.offset
        key = cursor.text("a metadata key", _KEY_BYTES)
        if not key or key in pairs:
            state = "twice" if key else "without a name"
            raise cursor.malformed(f"has the metadata key {shown(repr(key))} {state}", at)
        value = _value(cursor, key, room)
        if isinstance(value, list):
            room -= len(value)
        elif isinstance(value, ArrayOfNumbers):
            room -= value.count
        pairs[key] = value
    return pairs


def _value(cursor: Cursor, key: str, room: int) -> Value | ArrayOfNumbers:
    what = f"the value of {shown(repr(key))}"
    kind = _kind(cursor, what)
    if kind is Kind.ARRAY:
        return _array(cursor, what, room)
    if kind is Kind.STRING:
        return cursor.text(what)
    value: Value = _plain(cursor, kind, 1, what)[0]
    return value


def _kind(cursor: Cursor, what: str) -> Kind:
    at = cursor.offset
    number = cursor.u32(what)
    if number not in _KINDS:
        raise cursor.malformed(f"gives {what} the unknown kind {number}", at)
    return Kind(number)


def _array(cursor: Cursor, what: str, room: int) -> list[str] | ArrayOfNumbers:
    at = cursor.offset
    kind = _kind(cursor, what)
    if kind is Kind.ARRAY:
        raise cursor.malformed(f"makes {what} an array of arrays, which no model has", at)
    count = cursor.u64(what)
    if count > room:
        raise cursor.malformed(
            f"makes {what} an array of {count} elements, where {room} of the {MAX_ELEMENTS} accepted in one "
            "file are left",
            at,
        )
    if kind is Kind.STRING:
        cursor.require(8 * count, what)
        return [cursor.text(what) for _ in range(count)]
    numbers = ArrayOfNumbers(kind, count, cursor.offset, what)
    cursor.skip(count * struct.calcsize(f"<{FORMATS[kind]}"), what)
    return numbers


def read_numbers(cursor: Cursor, array: ArrayOfNumbers) -> list[bool] | list[int] | list[float]:
    """What an array holds."""
    cursor.go_to(array.offset)
    return _plain(cursor, array.kind, array.count, array.what)


def _plain(cursor: Cursor, kind: Kind, count: int, what: str) -> list[Any]:
    start = cursor.offset
    pattern = f"<{count}{FORMATS[kind]}"
    data = cursor.take(struct.calcsize(pattern), what)
    if kind is Kind.BOOL and (odd := data.translate(None, b"\0\1")):
        raise cursor.malformed(f"holds {odd[0]} where {what} has 0 or 1", start + data.index(odd[0]))
    return list(struct.unpack(pattern, data))
