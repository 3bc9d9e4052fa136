"""Describes tools as Python signatures with docstrings, as MiniCPM3 and MiniCPM4 were taught to read them.

The layout follows the published one; the sentences around it are this package's own, because the published
wording is only in the checkpoints' templates, which are preferred where they exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from minicpm.text.schema import types_of

_IMPORTS = """from enum import Enum
from typing import List, Dict, Optional
from pydantic import BaseModel, Field

"""
_RULES = """# Function Call Rule and Output Format
- If no function is needed, answer the user directly.
- If a function is needed but a required value is missing, ask the user for it.
- If a function is needed and all its required values are known, call it.
- Leave out a parameter to use its default value, unless the user asks for another.
- Answer in the following format:

<|thought_start|>
{what you think, step by step}
<|thought_end|>
<|tool_call_start|>
```python
function_name(parameter_1=value_1, parameter_2=value_2)
```
<|tool_call_end|>
{the answer to the user}"""
_SCALARS = {
    "string": "str",
    "number": "float",
    "integer": "int",
    "boolean": "bool",
    "null": "None",
}


def tool_section(tools: list[dict[str, Any]]) -> str:
    """What the system turn says of the tools."""
    blocks = "".join(_tool(tool["function"]) for tool in tools)
    return (
        "\n# Functions\nHere is a list of functions that you can invoke:\n"
        f"```python\n{_IMPORTS}{blocks}\n```\n\n{_RULES}"
    )


def _tool(function: Mapping[str, Any]) -> str:
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    parameters = ", ".join(
        name if name in required else f"{name}={_default(field)}" for name, field in properties.items()
    )
    lines = "".join(
        f"        {_field(name, field, name in required)}\n" for name, field in properties.items()
    )
    arguments = f"\n    Args:\n{lines}" if lines else ""
    documentation = f'    """{_quiet(function["description"])}\n{arguments}    """\n'
    return f"{_classes(properties)}\n\ndef {function['name']}({parameters}):\n{documentation}"


def _classes(properties: Mapping[str, Any]) -> str:
    """The helper classes of these properties, inner ones first."""
    return "".join(_class(name, field) for name, field in properties.items())


def _class(name: str, field: Mapping[str, Any]) -> str:
    if isinstance(field.get("enum"), list):
        values = enumerate(field["enum"])
        members = "".join(f"    enum_{place} = {_json(value)}\n" for place, value in values)
        return f"\n\nclass {_title(name)}(Enum):\n{members}"
    if "array" in types_of(field):
        return _class(name, field.get("items") or {})
    inner = field.get("properties")
    if not inner:
        return ""
    required = set(field.get("required") or ())
    fields = "".join(f"    {_field(key, value, key in required)}\n" for key, value in inner.items())
    return f"{_classes(inner)}\n\nclass {_title(name)}(BaseModel):\n{fields}"


def _field(name: str, field: Mapping[str, Any], required: bool) -> str:
    """`name: TYPE`, with its default, or with a Field(...) where there is more to say."""
    kind = _type(name, field)
    details = [("description", "description"), ("regex", "pattern"), ("title", "title")]
    said = [f"{label}={_json(_quiet(field[key]))}" for label, key in details if field.get(key)]
    typed = f"{name}: {kind if required else f'Optional[{kind}]'}"
    if said:
        return f"{typed} = Field({', '.join(['...' if required else _default(field), *said])})"
    return typed if required else f"{typed} = {_default(field)}"


def _type(name: str, field: Mapping[str, Any]) -> str:
    if isinstance(field.get("enum"), list):
        return _title(name)
    kinds = types_of(field)
    if len(kinds) > 1:
        return f"Union[{', '.join(_one_type(name, field, kind) for kind in kinds)}]"
    return _one_type(name, field, kinds[0] if kinds else "")


def _one_type(name: str, field: Mapping[str, Any], kind: str) -> str:
    if kind == "array":
        return f"List[{_type(name, field.get('items') or {})}]"
    if kind == "object":
        extra = field.get("additionalProperties")
        values = _type(name, extra) if isinstance(extra, Mapping) else "Any"
        return _title(name) if field.get("properties") else f"Dict[str, {values}]"
    return _SCALARS.get(kind, "Any")


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return _json(_quiet(default)) if isinstance(default, str) else str(default)


def _title(name: str) -> str:
    """Capital after a space, dash or opening bracket only: room_kind gives Room_kind, not Room_Kind."""
    titled = ""
    for place, character in enumerate(name):
        starts = place == 0 or name[place - 1] in "-({[<" or name[place - 1].isspace()
        titled += character.upper() if starts else character.lower()
    return titled


def _quiet(text: Any) -> Any:
    """A description cannot close the fence it stands in."""
    return text.replace("```", "'''") if isinstance(text, str) else text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
