"""Matches a written call with the declared tools: names, required parameters, types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from minicpm.text.parser.coercion import coerce
from minicpm.text.parser.py_call import WrittenCall
from minicpm.text.tools import fold_tools


class InvalidCall(ValueError):
    """Raised inside the parser for a call that no declared tool accepts; its text stays content."""


class Binder:
    """Knows the declared tools; `strict` also refuses parameters that a tool does not declare."""

    def __init__(self, tools: Sequence[Mapping[str, Any]], *, strict: bool) -> None:
        self._strict = strict
        self._schemas: dict[str, Mapping[str, Any]] = {
            tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in fold_tools(tools)
        }

    def schema(self, name: str) -> Mapping[str, Any]:
        """The folded parameters schema of a tool; raises InvalidCall."""
        if name not in self._schemas:
            raise InvalidCall(f"unknown function {name!r:.80}")
        return self._schemas[name]

    def property_schema(self, name: str, parameter: str) -> Mapping[str, Any]:
        """The schema of one parameter, {} where it is not declared; raises InvalidCall."""
        properties = self.schema(name).get("properties") or {}
        found = properties.get(parameter, {})
        return found if isinstance(found, Mapping) else {}

    def arguments(self, call: WrittenCall) -> str:
        """The JSON text of the call's arguments, in the order they were written; raises InvalidCall."""
        schema = self.schema(call.name)
        properties: Mapping[str, Any] = schema.get("properties") or {}
        named = _positional(call, list(properties)) | call.keywords
        self._check_names(schema, properties, named)
        missing = [name for name in schema.get("required") or () if name not in named]
        if missing:
            raise InvalidCall(f"missing required parameters {missing}")
        coerced = {name: coerce(value, properties.get(name, {})) for name, value in named.items()}
        try:
            return json.dumps(coerced, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise InvalidCall(f"a value has no JSON form: {error}") from error

    def _check_names(
        self, schema: Mapping[str, Any], properties: Mapping[str, Any], named: Mapping[str, Any]
    ) -> None:
        closed = schema.get("additionalProperties") is False or (self._strict and bool(properties))
        unknown = [name for name in named if name not in properties]
        if closed and unknown:
            raise InvalidCall(f"unknown parameters {unknown}")


def _positional(call: WrittenCall, order: list[str]) -> dict[str, Any]:
    if len(call.positional) > len(order):
        raise InvalidCall(f"{len(call.positional)} positional arguments for {len(order)} parameters")
    named = dict(zip(order, call.positional, strict=False))
    twice = sorted(named.keys() & call.keywords.keys())
    if twice:
        raise InvalidCall(f"parameters {twice} given by position and by name")
    return named
