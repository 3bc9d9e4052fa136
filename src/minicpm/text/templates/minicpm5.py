"""MiniCPM5: ChatML with tools as JSON, calls as XML, results inside user turns and <think> blocks.

The sentences around the tool definitions are this package's own; the checkpoint's template is preferred.
"""

from __future__ import annotations

import json
from typing import Any

from minicpm.text.templates.chatml import ASSISTANT, turn
from minicpm.text.templates.conversation import Conversation
from minicpm.text.templates.minicpm41 import NO_THOUGHT

_PLACE = "<tool_def_sep>"
_USAGE = """When a function is needed:
- Call it in this format: <function name="function_name"><param name="parameter_name">value</param></function>
- Give every required parameter, and only parameters that the function declares.
- Put a value that contains <, & or a line break into <![CDATA[...]]>.
- Make several calls one after the other when the request needs them.
- When no function fits, answer the user directly."""


def render(conversation: Conversation) -> str:
    """BOS, the system turn with the tools, then the turns."""
    turns = conversation.turns
    has_system = turns[0]["role"] == "system"
    system = turns[0]["content"] if has_system else ""
    body = _with_tools(system, _definitions(conversation.tools)) if conversation.tools else system
    head = turn("system", body) if body or has_system else ""
    rest = turns[1:] if has_system else turns
    prompt = conversation.bos + head + _turns(rest)
    return prompt + _answer(conversation.enable_thinking) if conversation.generate else prompt


def _answer(enable_thinking: bool | None) -> str:
    opening = {True: "<think>\n", False: NO_THOUGHT, None: ""}
    return ASSISTANT + opening[enable_thinking]


def _with_tools(system: str, definitions: str) -> str:
    if _PLACE in system:
        return system.replace(_PLACE, definitions)
    return f"{system}\n\n{definitions}" if system else definitions


def _definitions(tools: list[dict[str, Any]]) -> str:
    listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f"# Tools\n\nThe functions that you may call:\n<tools>{listed}\n</tools>\n\n{_USAGE}"


def _turns(turns: list[dict[str, Any]]) -> str:
    last_query = max((place for place, entry in enumerate(turns) if entry["role"] == "user"), default=-1)
    parts: list[str] = []
    for place, entry in enumerate(turns):
        if entry["role"] == "tool":
            parts.append(_result(turns, place))
        elif entry["role"] == "assistant":
            parts.append(turn("assistant", _assistant(entry, place > last_query)))
        else:
            parts.append(turn(entry["role"], entry["content"]))
    return "".join(parts)


def _result(turns: list[dict[str, Any]], place: int) -> str:
    """Consecutive results share one user turn."""
    opens = place == 0 or turns[place - 1]["role"] != "tool"
    closes = place + 1 == len(turns) or turns[place + 1]["role"] != "tool"
    start = "<|im_start|>user" if opens else ""
    end = "<|im_end|>\n" if closes else ""
    return f"{start}\n<tool_response>\n{turns[place]['content']}\n</tool_response>{end}"


def _assistant(entry: dict[str, Any], current: bool) -> str:
    """The thought is kept only after the last user turn; before it, an empty one stands in its place."""
    content, thought = entry["content"], entry.get("reasoning_content", "")
    if "</think>" in content:
        inside, _, content = content.rpartition("</think>")
        thought = thought or inside.rpartition("<think>")[2].strip("\n")
        content = content.lstrip("\n")
    elif "<think>" in content:
        return f"{content}{_calls(entry, content)}"
    kept = thought.strip("\n") if current else ""
    return f"<think>\n{kept}\n</think>\n\n{content}{_calls(entry, content)}"


def _calls(entry: dict[str, Any], content: str) -> str:
    calls = "\n".join(_call(call["function"]) for call in entry.get("tool_calls", ()))
    return f"\n{calls}" if calls and content else calls


def _call(function: dict[str, Any]) -> str:
    parameters = "".join(
        f'<param name="{name}">{_value(value)}</param>' for name, value in function["arguments"].items()
    )
    return f'<function name="{function["name"]}">{parameters}</function>'


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not any(character in text for character in "<&\n"):
        return text
    return "<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>"
