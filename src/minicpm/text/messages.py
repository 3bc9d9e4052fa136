"""Checks a conversation and brings it into the one shape that templates read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from minicpm.text.chat import Message
from minicpm.text.problems import Problems

Turn: TypeAlias = dict[str, Any]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
NO_RESULT = "error: this call returned no result"


def normalise_messages(messages: Sequence[Message]) -> list[Turn]:
    """Turns with text content, parsed arguments, and results in the order of their calls.

    The URLs of a user turn's images are under "images", wherever among its text they stood.
    A call's arguments that are no JSON object become {"_raw": text}, so that a bad call of the past does not
    end the conversation. Raises MessageError with every problem.
    """
    problems = Problems()
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        problems.add("messages", f"is {_kind(messages)} instead of a list of messages")
    elif not messages:
        problems.add("messages", "is empty; give at least one message")
    else:
        turns = [_turn(message, f"messages[{place}]", problems) for place, message in enumerate(messages)]
    problems.raise_if_any("The conversation")
    return _with_ordered_results(turns)


def _turn(message: Any, where: str, problems: Problems) -> Turn:
    if not isinstance(message, Mapping):
        problems.add(where, f"is {_kind(message)} instead of an object with role and content")
        return {}
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        problems.add(f"{where}.role", f"is {role!r:.60}, not one of {', '.join(_ROLES)}")
        return {}
    turn: Turn = {"role": _ROLES[role], "content": _content(message, where, problems)}
    if images := _images(message, where, problems):
        turn["images"] = images
    if role == "assistant":
        _add_reasoning(turn, message, where, problems)
        _add_calls(turn, message, where, problems)
    for key in ("tool_call_id", "name"):
        if isinstance(message.get(key), str):
            problems.check_text(f"{where}.{key}", message[key])
            turn[key] = message[key]
    return turn


def _content(message: Mapping[str, Any], where: str, problems: Problems) -> str:
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return ""
    if isinstance(content, str):
        problems.check_text(f"{where}.content", content)
        return content
    if isinstance(content, list | tuple):
        return "".join(
            _part(part, f"{where}.content[{place}]", problems) for place, part in enumerate(content)
        )
    problems.add(f"{where}.content", f"is {_kind(content)} instead of text or a list of parts")
    return ""


def _part(part: Any, where: str, problems: Problems) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
    if kind == "image_url":
        return ""
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(text, str):
        problems.check_text(where, text)
        return text
    problems.add(where, f"is a part of type {kind!r:.60}; only text and image_url parts can be read")
    return ""


def _images(message: Mapping[str, Any], where: str, problems: Problems) -> list[str]:
    """URLs of the image parts."""
    content = message.get("content")
    found: list[str] = []
    for place, part in enumerate(content if isinstance(content, list | tuple) else ()):
        if isinstance(part, Mapping) and part.get("type") == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, Mapping) else None
            if isinstance(url, str):
                found.append(url)
            else:
                problems.add(
                    f"{where}.content[{place}]", 'has no image; it must be {"image_url": {"url": ...}}'
                )
    if found and message["role"] != "user":
        problems.add(f"{where}.content", f"has images, and only users show images, not {message['role']}")
    return found


def _add_reasoning(turn: Turn, message: Mapping[str, Any], where: str, problems: Problems) -> None:
    """Under both names that published templates read."""
    for key in ("reasoning_content", "reasoning", "thought"):
        reasoning = message.get(key)
        if isinstance(reasoning, str):
            problems.check_text(f"{where}.{key}", reasoning)
            turn["reasoning_content"] = turn["thought"] = reasoning
            return
        if reasoning is not None:
            problems.add(f"{where}.{key}", f"is {_kind(reasoning)} instead of text")


def _add_calls(turn: Turn, message: Mapping[str, Any], where: str, problems: Problems) -> None:
    calls = message.get("tool_calls")
    if not calls and calls in (None, [], ()):
        return
    if not isinstance(calls, list | tuple):
        problems.add(f"{where}.tool_calls", f"is {_kind(calls)} instead of a list")
        return
    turn["tool_calls"] = [
        _call(call, f"{where}.tool_calls[{place}]", problems) for place, call in enumerate(calls)
    ]


def _call(call: Any, where: str, problems: Problems) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        problems.add(where, 'names no function; it must be {"function": {"name": ..., "arguments": ...}}')
        return {}
    problems.check_text(f"{where}.function.name", function["name"])
    arguments = _arguments(function.get("arguments"), where, problems)
    plain = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    identity = call.get("id")
    return plain | {"id": identity} if isinstance(identity, str) else plain


def _arguments(arguments: Any, where: str, problems: Problems) -> dict[str, Any]:
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        problems.add(
            f"{where}.function.arguments", f"is {_kind(arguments)} instead of an object or JSON text"
        )
        return {}
    problems.check_value(f"{where}.function.arguments", arguments)
    return dict(arguments)


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"_raw": text}


def _with_ordered_results(turns: list[Turn]) -> list[Turn]:
    """Results carry no id in a prompt, so their order is the only tie to their calls."""
    ordered: list[Turn] = []
    place = 0
    while place < len(turns):
        turn = turns[place]
        place += 1
        ordered.append(turn)
        calls = [call.get("id") for call in turn.get("tool_calls", ())]
        if calls and None not in calls and place < len(turns):
            end = place
            while end < len(turns) and turns[end]["role"] == "tool":
                end += 1
            ordered += _results(calls, turns[place:end])
            place = end
    return ordered


def _results(calls: list[str], results: list[Turn]) -> list[Turn]:
    if any("tool_call_id" not in result for result in results):
        return results
    known = set(calls)
    by_call: dict[str, list[Turn]] = {call: [] for call in calls}
    strangers = [result for result in results if result["tool_call_id"] not in known]
    for result in results:
        if result["tool_call_id"] in known:
            by_call[result["tool_call_id"]].append(result)
    missing = [{"role": "tool", "content": NO_RESULT}]
    return [result for call in by_call for result in by_call[call] or missing] + strangers


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", tuple: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
