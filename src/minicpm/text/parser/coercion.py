"""Turns what a model wrote into what the schema asks for, where the meaning is beyond doubt.

A value that cannot be turned is passed on as it is: judging it is up to the tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from minicpm.text.parser.literal import MAX_DEPTH, parse_literal
from minicpm.text.parser.strings import BadLiteral
from minicpm.text.schema import types_of


def coerce(value: Any, schema: Mapping[str, Any], depth: int = 0) -> Any:
    """`value` as the folded `schema` wants it, elements and properties included."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return value
    options = schema.get("enum")
    if isinstance(options, list):
        return _member(value, options)
    kinds = types_of(schema)
    if kinds and not any(_is(value, kind) for kind in kinds) and value is not None:
        value = _first_fit(value, kinds)
    return _inside(value, schema, depth)


def _first_fit(value: Any, kinds: list[str]) -> Any:
    for kind in kinds:
        fitted = _TURN.get(kind, _same)(value)
        if _is(fitted, kind):
            return fitted
    return value


def _inside(value: Any, schema: Mapping[str, Any], depth: int) -> Any:
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [coerce(element, schema["items"], depth + 1) for element in value]
    properties = schema.get("properties")
    if isinstance(value, dict) and isinstance(properties, Mapping):
        return {key: coerce(inner, properties.get(key, {}), depth + 1) for key, inner in value.items()}
    return value


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    expected = {"string": str, "integer": int, "number": int | float, "array": list, "object": dict}
    return kind in expected and isinstance(value, expected[kind])


def _member(value: Any, options: list[Any]) -> Any:
    """The exact member, else the only one that differs in case alone, else one of equal spelling."""
    for option in options:
        if type(option) is type(value) and option == value:
            return option
    folded = [o for o in options if isinstance(o, str) and isinstance(value, str)]
    folded = [o for o in folded if o.casefold() == value.casefold()]
    spelled = [o for o in options if not isinstance(o, str) and isinstance(value, str) and _text(o) == value]
    written = [o for o in options if isinstance(o, str) and not isinstance(value, str) and o == _text(value)]
    found = folded or spelled or written
    return found[0] if len(found) == 1 else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _integer(value: Any) -> Any:
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _number(value: Any) -> Any:
    return _parsed(value) if isinstance(value, str) else value


def _boolean(value: Any) -> Any:
    named = {"true": True, "false": False}
    return named.get(value.strip().lower(), value) if isinstance(value, str) else value


def _array(value: Any) -> Any:
    """Text that spells a list is that list; a lone value is a list of one."""
    parsed = _parsed(value) if isinstance(value, str) else value
    if isinstance(parsed, list):
        return parsed
    return [value]


def _object(value: Any) -> Any:
    return _parsed(value) if isinstance(value, str) else value


def _parsed(text: str) -> Any:
    try:
        return parse_literal(text)
    except BadLiteral:
        return text


def _same(value: Any) -> Any:
    return value


_TURN: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _array,
    "object": _object,
}
