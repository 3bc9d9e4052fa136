"""Writes calls of the history as lines of Python, the way the model writes them."""

from __future__ import annotations

import json
from typing import Any


def call_block(calls: list[dict[str, Any]]) -> str:
    """All calls of one turn in one fence between the call markers."""
    lines = "".join(_line(call["function"]) + "\n" for call in calls)
    return f"<|tool_call_start|>\n```python\n{lines}```\n<|tool_call_end|>"


def _line(function: dict[str, Any]) -> str:
    arguments = function["arguments"].items()
    return f"{function['name']}({','.join(f'{name}={_json(value)}' for name, value in arguments)})"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
