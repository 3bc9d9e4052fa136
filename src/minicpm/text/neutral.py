"""Keeps spellings of control tokens in caller-given strings apart from those a template writes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from minicpm.errors import MessageError
from minicpm.text.messages import Turn
from minicpm.text.pieces import Piece, Spellings

# Spellings that templates look for in what a role writes: left readable there, control elsewhere.
READ_BY_TEMPLATES = {
    "system": frozenset({"<tool_def_sep>"}),
    "assistant": frozenset({"<think>", "</think>", "<tool_sep>"}),
}
JOINER = "\u200d"


class Neutraliser:
    """Marks foreign spellings before rendering, and tells them apart afterwards.

    `spellings` are those of control tokens; a private-use mark inside each hides it from `split`, which takes
    the mark out again. `text_markers` are format markers that the vocabulary spells with ordinary tokens: no
    encoding can tell who wrote them, so a zero-width joiner stays in those that users and tools write.
    """

    def __init__(self, spellings: Spellings, text_markers: Iterable[str], mark: str) -> None:
        self._spellings = spellings
        self._markers = Spellings(text_markers)
        self._mark = mark

    def turn(self, turn: Turn) -> Turn:
        """A copy of the turn, safe to render."""
        role = turn["role"]
        readable = READ_BY_TEMPLATES.get(role, frozenset())
        safe = {key: self.value(value) for key, value in turn.items() if key not in ("role", "content")}
        content = turn["content"]
        if role in ("user", "tool"):
            content = self._joined(content)
        return {"role": role, "content": self.text(content, readable)} | safe

    def tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        """A copy of a tool's declaration, safe to render."""
        return {key: self._declared(value) for key, value in tool.items()}

    def value(self, value: Any) -> Any:
        """A copy of a JSON value with every string in it safe."""
        return _mapped(value, self.text)

    def _declared(self, value: Any) -> Any:
        return _mapped(value, lambda text: self.text(self._joined(text)))

    def text(self, text: str, readable: Collection[str] = ()) -> str:
        """`text` with a mark inside every control spelling, and after a beginning of one at its end."""
        safe = _with_inserts(text, self._spellings, self._mark, readable)
        body = safe.rstrip()
        if self._spellings.ends_inside(body):
            return body + self._mark + safe[len(body) :]
        return safe

    def split(self, rendered: str) -> list[Piece]:
        """The pieces of a rendered prompt, without the marks."""
        pieces = self._spellings.split(rendered)
        escaped = f"\\u{ord(self._mark):04x}"  # what a template's ASCII-only JSON makes of the mark
        clean = (
            piece if piece.control else Piece(piece.text.replace(self._mark, "").replace(escaped, ""))
            for piece in pieces
        )
        return [piece for piece in clean if piece.text]

    def _joined(self, text: str) -> str:
        return _with_inserts(text, self._markers, JOINER, ())


def free_mark(texts: Iterable[str]) -> str:
    """A private-use character that occurs in none of `texts`, neither itself nor JSON-escaped."""
    whole = "\n".join(texts)
    used = set(whole)
    for code in range(0xE000, 0xF900):
        if chr(code) not in used and f"\\u{code:04x}" not in whole:
            return chr(code)
    raise MessageError(
        "The conversation uses all 6,400 private-use characters, and one is needed to keep it apart from the "
        "template. Remove some."
    )


def _with_inserts(text: str, spellings: Spellings, mark: str, readable: Collection[str]) -> str:
    parts: list[str] = []
    end = 0
    for start, spelling in spellings.find_all(text):
        if spelling not in readable:
            parts += [text[end : start + 1], mark]
            end = start + 1
    return "".join([*parts, text[end:]]) if parts else text


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(key)): _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, change) for inner in value]
    return value
