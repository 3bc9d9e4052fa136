"""A model's answer, as text that arrives in pieces, back to content, reasoning and tool calls."""

from __future__ import annotations

from minicpm.text.parser.stream import DIALECTS, StreamParser

__all__ = ["DIALECTS", "StreamParser"]
