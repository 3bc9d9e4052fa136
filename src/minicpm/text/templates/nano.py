"""The packaged demo model: ChatML, one line per tool, Python calls and <think> blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from minicpm.text.schema import types_of
from minicpm.text.templates.chatml import ASSISTANT, turn
from minicpm.text.templates.conversation import Conversation
from minicpm.text.templates.minicpm41 import NO_THOUGHT
from minicpm.text.templates.python_calls import call_block

_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}


def render(conversation: Conversation) -> str:
    """The turns without thoughts; an answer begins inside a thought unless thinking is off."""
    turns = conversation.turns
    has_system = turns[0]["role"] == "system"
    parts = [str(turns[0]["content"])] if has_system and turns[0]["content"] else []
    if conversation.tools:
        parts.append("\n".join(["# Functions", *(_tool(tool["function"]) for tool in conversation.tools)]))
    head = turn("system", "\n\n".join(parts)) if parts or has_system else ""
    rest = turns[1:] if has_system else turns
    prompt = head + "".join(turn(entry["role"], _body(entry)) for entry in rest)
    if not conversation.generate:
        return prompt
    return prompt + ASSISTANT + (NO_THOUGHT if conversation.enable_thinking is False else "<think>\n")


def _body(entry: dict[str, Any]) -> str:
    calls = entry.get("tool_calls")
    return str(entry["content"]) + (call_block(calls) if calls else "")


def _tool(function: Mapping[str, Any]) -> str:
    schema = function.get("parameters") or {}
    required = set(schema.get("required") or ())
    properties = (schema.get("properties") or {}).items()
    parameters = ", ".join(_parameter(name, field, name in required) for name, field in properties)
    return f"{function['name']}({parameters}): {function.get('description', '')}"


def _parameter(name: str, field: Mapping[str, Any], required: bool) -> str:
    if isinstance(field.get("enum"), list):
        kind = "|".join(map(_json, field["enum"]))
    else:
        kind = next((_TYPES[kind] for kind in types_of(field) if kind in _TYPES), "str")
    default = _json(field["default"]) if "default" in field else "None"
    return f"{name}: {kind}" if required else f"{name}: {kind} = {default}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
