"""What a template renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Conversation:
    """Normalised turns and tools; `enable_thinking` is None where the caller leaves it to the template."""

    turns: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    enable_thinking: bool | None
    generate: bool
    bos: str = ""
    eos: str = ""


Renderer: TypeAlias = Callable[[Conversation], str]
