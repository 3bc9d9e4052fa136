"""MiniCPM4.1: ChatML whose answers may begin with a <think> block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minicpm.text.templates import chatml
from minicpm.text.templates.conversation import Conversation

NO_THOUGHT = "<think>\n\n</think>\n\n"


def render(conversation: Conversation) -> str:
    """Thoughts of the history are left out; with thinking off, the answer begins after an empty thought."""
    turns = [_spoken(turn) for turn in conversation.turns]
    prompt = chatml.render_turns(replace(conversation, turns=turns))
    if not conversation.generate:
        return prompt
    return prompt + chatml.ASSISTANT + (NO_THOUGHT if conversation.enable_thinking is False else "")


def _spoken(turn: dict[str, Any]) -> dict[str, Any]:
    if turn["role"] != "assistant":
        return turn
    content = turn["content"].rpartition("</think>")
    spoken = content[2].lstrip("\n") if content[1] else content[2]
    return turn | {"content": spoken, "thought": ""}
