"""The text of attributes and values in the XML-like call format."""

from __future__ import annotations

_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}
_LONGEST = max(map(len, _ENTITIES))
_NAME = "name="
_BLANK = " \t\r\n\f\u0120"  # U+0120 is a space that some decoders leave undone


class XmlValue:
    """A value in parts, each plain or CDATA."""

    def __init__(self) -> None:
        self._parts: list[tuple[bool, list[str]]] = [(False, [])]

    def add(self, part: str) -> None:
        """More text of the current part."""
        self._parts[-1][1].append(part)

    def open_cdata(self) -> None:
        """What follows is taken as it stands."""
        self._parts.append((True, []))

    def close_cdata(self) -> None:
        """What follows is plain again."""
        self._parts.append((False, []))

    def text(self) -> str:
        """Entities read outside CDATA only; one line break of framing at either end dropped.

        White space around CDATA sections is framing too.
        """
        parts = [(verbatim, "".join(texts)) for verbatim, texts in self._parts]
        if len(parts) == 1:
            return unescape(parts[0][1].removeprefix("\n").removesuffix("\n"))
        return "".join(
            part if verbatim else unescape(part) for verbatim, part in parts if verbatim or part.strip()
        )


def unescape(text: str) -> str:
    """Replaces the five named entities of XML, each once."""
    pieces = text.split("&")
    return pieces[0] + "".join(_entity("&" + piece) for piece in pieces[1:])


def _entity(piece: str) -> str:
    entity = piece[: piece.find(";", 0, _LONGEST) + 1]
    return _ENTITIES[entity] + piece[len(entity) :] if entity in _ENTITIES else piece


def may_be_attribute(head: str) -> bool:
    """Whether text behind a tag's name can still become name=..."""
    written = head.lstrip(_BLANK)
    return written.startswith(_NAME) or _NAME.startswith(written)


def attribute(head: str) -> str | None:
    """The value of name=... at the start of `head`, quoted or bare; None where there is none."""
    written = head.strip(_BLANK)
    if not written.startswith(_NAME):
        return None
    value = written[len(_NAME) :]
    quote = value[:1]
    if quote in ("'", '"') and quote:
        closing = value.find(quote, 1)
        return unescape(value[1:closing]) if closing > 0 else None
    return value.split(maxsplit=1)[0] if value.strip() else None
