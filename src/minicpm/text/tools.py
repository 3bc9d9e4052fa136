"""Checks declared tools and brings them into the one shape that templates and parsers read."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from minicpm.text.chat import Tool
from minicpm.text.problems import Problems
from minicpm.text.schema import SchemaTooLarge, fold_schema

MAX_NAME = 64
_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_.-")


def check_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Tools as {"type": "function", "function": {...}} with the caller's own schemas; [] without tools.

    Raises MessageError with every problem.
    """
    problems = Problems()
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence | None):
        problems.add("tools", "is not a list of tools")
        tools = None
    checked = [_tool(tool, f"tools[{place}]", problems) for place, tool in enumerate(tools or ())]
    counts = Counter(str(tool["function"].get("name")) for tool in checked if tool)
    for name in sorted(name for name, count in counts.items() if count > 1):
        problems.add("tools", f"has the name {name!r:.80} more than once")
    problems.raise_if_any("The tools")
    return checked


def fold_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked tools with folded schemas and a description each."""
    return [_folded(tool) for tool in tools]


def _folded(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(tool["function"])
    function["description"] = function.get("description") or ""
    if "parameters" in function:
        function["parameters"] = fold_schema(function["parameters"])
    return {**tool, "function": function}


def _tool(tool: Any, where: str, problems: Problems) -> dict[str, Any]:
    """Keys stay in the caller's order, because some templates print the whole tool."""
    bare = isinstance(tool, Mapping) and "function" not in tool
    function = tool if bare else tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        problems.add(where, "is not an object that describes a function")
        return {}
    if tool.get("type", "function") != "function":
        problems.add(f"{where}.type", f"is {tool.get('type')!r:.60}; only functions can be called")
    kept = {
        key: value for key, value in function.items() if value is not None and not (bare and key == "type")
    }
    _check_function(kept, where, problems)
    return {"type": "function", "function": kept} if bare else {"type": "function", **tool, "function": kept}


def _check_function(function: Mapping[str, Any], where: str, problems: Problems) -> None:
    name = function.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not _NAME_CHARACTERS.issuperset(name):
        problems.add(f"{where}.name", f"is {name!r:.80}; use 1 to {MAX_NAME} of letters, digits, _ . -")
    if not isinstance(function.get("description"), str | None):
        problems.add(f"{where}.description", "is not text")
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping | None):
        problems.add(f"{where}.parameters", "is not a JSON schema object")
        return
    problems.check_value(where, function)
    try:
        fold_schema(parameters)
    except SchemaTooLarge as error:
        problems.add(f"{where}.parameters", f"cannot be used: {error}")
