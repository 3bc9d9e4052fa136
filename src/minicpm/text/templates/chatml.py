"""ChatML with Python-call tools: MiniCPM-2B-128k (without tools), MiniCPM3, MiniCPM4, BitCPM4."""

from __future__ import annotations

from typing import Any

from minicpm.text.templates.conversation import Conversation
from minicpm.text.templates.python_calls import call_block
from minicpm.text.templates.python_tools import tool_section

ASSISTANT = "<|im_start|>assistant\n"


def render(conversation: Conversation) -> str:
    """The turns, with the tools in the system turn."""
    return render_turns(conversation) + (ASSISTANT if conversation.generate else "")


def render_turns(conversation: Conversation) -> str:
    """Everything before the generation prompt."""
    turns = conversation.turns
    first = turns[0]["content"] if turns[0]["role"] == "system" else ""
    body = first + (tool_section(conversation.tools) if conversation.tools else "")
    head = turn("system", body) if body or turns[0]["role"] == "system" else ""
    rest = turns[1:] if turns[0]["role"] == "system" else turns
    return head + "".join(turn(entry["role"], _body(entry)) for entry in rest)


def turn(role: str, body: str) -> str:
    """One framed turn."""
    return f"<|im_start|>{role}\n{body}<|im_end|>\n"


def _body(entry: dict[str, Any]) -> str:
    if entry["role"] != "assistant":
        return str(entry["content"])
    thought = entry.get("thought")
    opened = f"<|thought_start|>\n{thought}\n<|thought_end|>\n" if thought else ""
    calls = entry.get("tool_calls")
    block = call_block(calls) + "\n" if calls else ""
    return f"{opened}{block}{entry['content']}"
