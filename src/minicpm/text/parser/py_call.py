"""Reads one call, `name(key=literal, ...)`, without evaluating anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minicpm.text.parser.literal import LiteralReader
from minicpm.text.parser.strings import BadLiteral


@dataclass(slots=True)
class WrittenCall:
    """A call as it was written, before it is matched with the declared tools."""

    name: str
    positional: list[Any] = field(default_factory=list)
    keywords: dict[str, Any] = field(default_factory=dict)


def read_call(text: str) -> WrittenCall:
    """Parses `text`, which ends with the call's closing parenthesis; raises BadLiteral.

    Names are runs of any characters but white space, quotes, brackets and , = : ; so `from`, `my-tool` and
    `2nd.step` are names as they stand.
    """
    reader = LiteralReader(text)
    call = WrittenCall(reader.word())
    if not call.name or not reader.take("("):
        raise BadLiteral("no name before the parenthesis")
    while not reader.take(")"):
        _argument(reader, call)
        if not reader.take(",") and reader.skip_space() != ")":
            raise BadLiteral("neither , nor ) after an argument")
    if reader.skip_space():
        raise BadLiteral("more after the call")
    return call


def _argument(reader: LiteralReader, call: WrittenCall) -> None:
    start = reader.position
    name = reader.word()
    if name and reader.take("="):
        if name in call.keywords:
            raise BadLiteral(f"argument {name!r:.60} twice")
        call.keywords[name] = reader.value()
        return
    reader.position = start
    if call.keywords:
        raise BadLiteral("a positional argument after a named one")
    call.positional.append(reader.value())
