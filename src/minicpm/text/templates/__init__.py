"""The prompt formats of the family, for checkpoints that carry no chat template of their own."""

from __future__ import annotations

from minicpm.text.templates.catalog import BuiltIn, built_in, names
from minicpm.text.templates.conversation import Conversation

__all__ = ["BuiltIn", "Conversation", "built_in", "names"]
