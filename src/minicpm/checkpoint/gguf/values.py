"""The kinds of metadata values in GGUF, and values whose kind is said outright, to be written."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from minicpm.checkpoint.files import shown
from minicpm.errors import BadInput

Scalar = bool | int | float | str
Value = Scalar | list[bool] | list[int] | list[float] | list[str]
"""A metadata value as read: integers of any width are int, float32 and float64 are float."""


class Kind(IntEnum):
    """The kinds of the format, by their numbers in a file."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


FORMATS = {
    Kind.U8: "B", Kind.I8: "b", Kind.U16: "H", Kind.I16: "h", Kind.U32: "I", Kind.I32: "i", Kind.U64: "Q",
    Kind.I64: "q", Kind.F32: "f", Kind.F64: "d", Kind.BOOL: "?",
}  # fmt: skip
"""How `struct` names the kinds of fixed size."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A value to be written as this kind, or a list of them; made by the functions below."""

    kind: Kind
    value: Value

    def encoded(self, key: str) -> bytes:
        """The key, the kind, for a list its elements' kind and number, and the content.

        Raises BadInput, naming the key, for a value that its kind does not hold.
        """
        several = isinstance(self.value, list)
        values: Sequence[Scalar] = self.value if isinstance(self.value, list) else [self.value]
        try:
            head, content = encoded_text(key), _content(self.kind, values)
        except (struct.error, OverflowError, UnicodeEncodeError) as error:
            raise BadInput(
                f"The metadata {shown(repr(key))} cannot be written to GGUF as {self.kind.name} ({error}). "
                "Correct the value in the model's own files."
            ) from error
        kinds = _u32(Kind.ARRAY) + _u32(self.kind) + len(values).to_bytes(8, "little")
        return head + (kinds if several else _u32(self.kind)) + content


def u32(value: int) -> Typed:
    """A count, a size or an id: 0 .. 2^32 - 1."""
    return Typed(Kind.U32, value)


def i32(value: int) -> Typed:
    """A signed number of 32 bits."""
    return Typed(Kind.I32, value)


def u64(value: int) -> Typed:
    """A number of 64 bits."""
    return Typed(Kind.U64, value)


def f32(value: float) -> Typed:
    """A float32; the nearest one is written."""
    return Typed(Kind.F32, value)


def boolean(value: bool) -> Typed:
    """True or false."""
    return Typed(Kind.BOOL, value)


def string(value: str) -> Typed:
    """Text, in UTF-8."""
    return Typed(Kind.STRING, value)


def u32s(values: Sequence[int]) -> Typed:
    """An array of counts."""
    return Typed(Kind.U32, list(values))


def i32s(values: Sequence[int]) -> Typed:
    """An array of signed numbers, as token types are."""
    return Typed(Kind.I32, list(values))


def f32s(values: Sequence[float]) -> Typed:
    """An array of float32, as scores of tokens are."""
    return Typed(Kind.F32, list(values))


def strings(values: Sequence[str]) -> Typed:
    """An array of texts, as tokens and merges are."""
    return Typed(Kind.STRING, list(values))


def encoded_text(text: str) -> bytes:
    """A length of eight bytes, then as many of UTF-8."""
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _content(kind: Kind, values: Sequence[Scalar]) -> bytes:
    if kind == Kind.STRING:
        return b"".join(encoded_text(str(value)) for value in values)
    return struct.pack(f"<{len(values)}{FORMATS[kind]}", *values)
