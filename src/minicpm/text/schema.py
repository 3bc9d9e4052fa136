"""Folds a JSON schema into the plain subset that prompt layouts and call parsers understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

MAX_NODES = 10_000
MAX_REFERENCES = 4
_MAX_DEPTH = 32
_CUT: Schema = {"type": "object"}


class SchemaTooLarge(ValueError):
    """Raised inside the room when inlining references makes a schema explode."""


def fold_schema(schema: Any) -> Schema:
    """A copy with references inlined and anyOf, oneOf, allOf and const folded away.

    Nullable properties are no longer required. References are followed 4 deep. Raises SchemaTooLarge.
    """
    return _Folder(schema if isinstance(schema, Mapping) else {}).fold(schema, 0, 0)


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The JSON types that a folded schema names; [] where any is fine."""
    kind = schema.get("type")
    named = kind if isinstance(kind, list) else [kind]
    return [name for name in named if isinstance(name, str)]


class _Folder:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0

    def fold(self, schema: Any, references: int, depth: int) -> Schema:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SchemaTooLarge(f"it has more than {MAX_NODES} parts once its references are followed")
        if not isinstance(schema, Mapping):
            return {}
        if depth > _MAX_DEPTH:
            return dict(_CUT)
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema, references, depth)
        plain = {key: value for key, value in schema.items() if _is_well_formed(key, value)}
        plain = self._all_of(plain, references, depth)
        plain = self._any_of(plain, references, depth)
        if "const" in plain:
            plain["enum"] = [plain.pop("const")]
        return self._children(plain, references, depth)

    def _reference(self, schema: Mapping[str, Any], references: int, depth: int) -> Schema:
        beside = {
            key: value for key, value in schema.items() if key != "$ref" and _is_well_formed(key, value)
        }
        if references >= MAX_REFERENCES:
            return _CUT | beside
        target = self.fold(self._target(schema["$ref"]), references + 1, depth + 1)
        return target | beside

    def _target(self, pointer: str) -> Any:
        """The schema at a JSON pointer into the root ("#/$defs/Name"), None where there is none."""
        node: Any = self._root
        if not pointer.startswith("#"):
            return None
        for step in pointer[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, Mapping) or key not in node:
                return None
            node = node[key]
        return node

    def _all_of(self, schema: Schema, references: int, depth: int) -> Schema:
        parts = schema.pop("allOf", None)
        if not isinstance(parts, list):
            return schema
        merged = schema
        for part in parts:
            merged = _merged(merged, self.fold(part, references, depth + 1))
        return merged

    def _any_of(self, schema: Schema, references: int, depth: int) -> Schema:
        options = schema.pop("anyOf", None) or schema.get("oneOf")
        schema.pop("oneOf", None)
        if not isinstance(options, list):
            return schema
        folded = [self.fold(option, references, depth + 1) for option in options]
        kept = [option for option in folded if option.get("type") != "null"]
        if len(kept) < len(folded):
            schema["nullable"] = True
        return _alternatives(kept) | schema if kept else schema

    def _children(self, schema: Schema, references: int, depth: int) -> Schema:
        if isinstance(schema.get("properties"), Mapping):
            schema["properties"] = {
                str(name): self.fold(value, references, depth + 1)
                for name, value in schema["properties"].items()
            }
            optional = {name for name, value in schema["properties"].items() if value.pop("nullable", False)}
            if "required" in schema:
                schema["required"] = [name for name in schema["required"] if name not in optional]
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), Mapping):
                schema[key] = self.fold(schema[key], references, depth + 1)
                schema[key].pop("nullable", None)
        return schema


def _is_well_formed(key: str, value: Any) -> bool:
    """Definitions are inlined, and a keyword whose value has the wrong type says nothing."""
    match key:
        case "$defs" | "definitions":
            return False
        case "type":
            return isinstance(value, str) or _are_texts(value)
        case "required":
            return _are_texts(value)
        case "enum":
            return isinstance(value, list) and bool(value)
        case "properties" | "items":
            return isinstance(value, Mapping)
    return True


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _merged(first: Schema, second: Schema) -> Schema:
    both = second | first
    if "properties" in first and "properties" in second:
        both["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        both["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    return both


def _alternatives(options: list[Schema]) -> Schema:
    """One schema that admits every option, as closely as a flat schema can."""
    if len(options) == 1:
        return options[0]
    kinds = list(dict.fromkeys(kind for option in options for kind in types_of(option)))
    joint: Schema = {}
    if kinds:
        joint["type"] = kinds[0] if len(kinds) == 1 else kinds
    if all(isinstance(option.get("enum"), list) for option in options):
        joint["enum"] = [value for option in options for value in option["enum"]]
    for option in options:
        for key in ("properties", "items"):
            if isinstance(option.get(key), dict):
                joint[key] = {**option[key], **joint.get(key, {})}
    notes = [str(o.get("title") or o.get("description") or "") for o in options if "properties" in o]
    if len(notes) > 1:
        joint["description"] = "One of: " + ", ".join(note for note in notes if note)
    return joint
