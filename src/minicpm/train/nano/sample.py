"""What a training sample is, and how a conversation becomes one in nano's prompt format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Message = Mapping[str, Any]
Thinking = Literal["on", "off"]

PYTHON_NAMES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one sample: `learn` puts the loss on it, `control` marks a special-token spelling."""

    text: str
    learn: bool
    control: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One training document; its parts begin at token boundaries, so they may be encoded one by one."""

    kind: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The whole sample as the model would see it written."""
        return "".join(part.text for part in self.parts)


BOS = Part("<s>", learn=False, control=True)
START = Part("<|im_start|>", learn=False, control=True)
END = Part("<|im_end|>", learn=False, control=True)


def document(kind: str, pieces: Iterable[tuple[str, bool]]) -> Sample:
    """A plain text sample of (text, learn) pieces after one `<s>`."""
    return Sample(kind, (BOS, *(Part(text, learn) for text, learn in pieces)))


def _default(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema["default"], ensure_ascii=False) if "default" in schema else "None"


def _parameter(name: str, schema: Mapping[str, Any], required: bool) -> str:
    if "enum" in schema:
        kind = "|".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    else:
        kind = PYTHON_NAMES.get(schema.get("type", "string"), "str")
    return f"{name}: {kind}" if required else f"{name}: {kind} = {_default(schema)}"


def signature(tool: Mapping[str, Any]) -> str:
    """The one line that describes an OpenAI-shaped function to the model."""
    function = tool.get("function", tool)
    schema = function.get("parameters") or {}
    required = schema.get("required", ())
    inside = ", ".join(
        _parameter(name, value, name in required) for name, value in (schema.get("properties") or {}).items()
    )
    return f"{function['name']}({inside}): {function.get('description', '')}"


def call_line(call: Mapping[str, Any]) -> str:
    """One tool call as the model writes it: `name(key=JSON,key2=JSON)`."""
    function = call.get("function", call)
    inside = ",".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in function["arguments"].items()
    )
    return f"{function['name']}({inside})"


def system_text(system: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """The content of the system turn, empty when there should be none."""
    if not tools:
        return system
    listed = "# Functions\n" + "\n".join(signature(tool) for tool in tools)
    return f"{system}\n\n{listed}" if system else listed


def _answer(message: Message, lead: str = "") -> tuple[Part, ...]:
    """The learned end of an assistant turn: content, calls and the closing token."""
    content = lead + (message.get("content") or "")
    parts = (Part(content, True),) if content else ()
    if message.get("tool_calls"):
        lines = "\n".join(call_line(call) for call in message["tool_calls"])
        parts += (
            Part("<|tool_call_start|>", True, True),
            Part(f"\n```python\n{lines}\n```\n", True),
            Part("<|tool_call_end|>", True, True),
        )
    return (*parts, Part("<|im_end|>", True, True))


def _last_answer(message: Message, thinking: Thinking) -> tuple[Part, ...]:
    opening = (START, Part("assistant\n", False), Part("<think>", False, True))
    if thinking == "off":
        closed = (Part("\n\n", False), Part("</think>", False, True), Part("\n\n", False))
        return (*opening, *closed, *_answer(message))
    thought = (Part("\n", False), Part(message["thought"] + "\n", True), Part("</think>", True, True))
    return (*opening, *thought, *_answer(message, lead="\n\n"))


def _turn(role: str, content: str) -> tuple[Part, ...]:
    return (START, Part(f"{role}\n{content}", False), END, Part("\n", False))


def _history(message: Message) -> tuple[Part, ...]:
    if message["role"] != "assistant":
        return _turn(message["role"], message["content"])
    return (START, Part("assistant\n", False), *_answer(message), Part("\n", False))


def chat_sample(
    kind: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    thinking: Thinking = "off",
) -> Sample:
    """Render a conversation that ends with an assistant turn; every assistant turn is learned.

    Earlier assistant turns stand as history stands in a prompt, without thinking; the last one is written
    after the generation prompt of its `thinking` mode and must carry a non-empty "thought" when that is on.
    """
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    if text := system_text(system, tools):
        head: tuple[Part, ...] = _turn("system", text)
    else:
        head = ()
    middle = [part for message in turns[:-1] for part in _history(message)]
    return Sample(kind, (BOS, *head, *middle, *_last_answer(turns[-1], thinking)))
