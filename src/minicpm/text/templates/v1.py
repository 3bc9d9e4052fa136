"""MiniCPM 1B, 2B, MoE and S: user turns between two markers, everything else bare."""

from __future__ import annotations

from minicpm.text.templates.conversation import Conversation


def render(conversation: Conversation) -> str:
    """A user turn ends in the marker that asks for an answer, so generating adds nothing."""
    return "".join(_turn(turn["role"], turn["content"].strip()) for turn in conversation.turns)


def _turn(role: str, content: str) -> str:
    return f"<用户>{content}<AI>" if role == "user" else content
