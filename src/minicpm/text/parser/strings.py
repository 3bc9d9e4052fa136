"""Reads one quoted string with Python's escapes; surrogate pairs of JSON join to their character."""

from __future__ import annotations

import string

_PREFIXES = ("", "f", "F", "u", "U", "r", "R", "fr", "rf", "FR", "RF", "fR", "rF", "Fr", "Rf")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPES |= {"\\": "\\", "'": "'", '"': '"', "\n": ""}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_HEX = frozenset(string.hexdigits)
_OCTAL = frozenset("01234567")


class BadLiteral(ValueError):
    """Raised inside the parser where text is no literal; the call it stands in is then invalid."""


def starts_string(text: str, position: int) -> bool:
    """Whether a quoted string begins here, with or without a prefix."""
    for length in range(3):
        quote = text[position + length : position + length + 1]
        if quote in ("'", '"') and quote:
            return text[position : position + length] in _PREFIXES
    return False


def read_string(text: str, position: int) -> tuple[str, int]:
    """The string that begins at `position`, and the position behind it; line breaks may stand in it bare."""
    start = position
    while text[position] not in "'\"":
        position += 1
    prefix = text[start:position].lower()
    quote = text[position] * (3 if text.startswith(text[position] * 3, position) else 1)
    position += len(quote)
    parts: list[str] = []
    while not text.startswith(quote, position):
        if position >= len(text):
            raise BadLiteral("a string without an end")
        part, position = _character(text, position, prefix)
        parts.append(part)
    return _whole("".join(parts)), position + len(quote)


def _character(text: str, position: int, prefix: str) -> tuple[str, int]:
    character = text[position]
    if character == "\\" and "r" in prefix:
        return text[position : position + 2], position + 2
    if character == "\\":
        return _escape(text, position + 1)
    if "f" in prefix and character in "{}":
        if text[position + 1 : position + 2] != character:
            raise BadLiteral("an f-string with a field")
        return character, position + 2
    return character, position + 1


def _escape(text: str, position: int) -> tuple[str, int]:
    """The character an escape stands for; an unknown escape stands for itself, as in Python."""
    kind = text[position : position + 1]
    if kind in _ESCAPES and kind:
        return _ESCAPES[kind], position + 1
    if kind in _HEX_LENGTHS:
        return _hex(text, position + 1, _HEX_LENGTHS[kind])
    if kind in _OCTAL and kind:
        end = position + 1
        while end < position + 3 and text[end : end + 1] in _OCTAL and end < len(text):
            end += 1
        return chr(int(text[position:end], 8)), end
    return "\\" + kind, position + 1


def _hex(text: str, position: int, length: int) -> tuple[str, int]:
    digits = text[position : position + length]
    if len(digits) < length or not _HEX.issuperset(digits) or int(digits, 16) > 0x10FFFF:
        raise BadLiteral(f"the escape {digits!r} names no character")
    return chr(int(digits, 16)), position + length


def _whole(text: str) -> str:
    """Joins surrogate pairs; half a pair has no UTF-8 form."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise BadLiteral("half of a surrogate pair") from error
