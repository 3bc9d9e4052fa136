"""Finds the chat template that a checkpoint carries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minicpm.text.json_files import read_object, read_text

_PACKAGED = Path(__file__).resolve().parents[1] / "assets" / "nano"


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """The template texts of a checkpoint: the usual one, and the one for conversations with tools."""

    default: str
    with_tools: str

    @property
    def digest(self) -> str:
        """sha256 of the usual template, as lower-case hex."""
        return sha256(self.default)


def read_own_template(folder: Path) -> OwnTemplate | None:
    """chat_template.jinja, else chat_template.json, else tokenizer_config.json; None where there is none."""
    text = read_text(folder / "chat_template.jinja")
    if text:
        return OwnTemplate(text, text)
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _named(read_object(folder / name).get("chat_template"))
        if "default" in found:
            return OwnTemplate(found["default"], found.get("tool_use", found["default"]))
    return None


def is_packaged(template: str) -> bool:
    """Whether this is the template of the packaged model, which needs no sandbox."""
    return sha256(template) in _packaged_digests()


def sha256(text: str) -> str:
    """Of the UTF-8 form, as lower-case hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _named(value: Any) -> Mapping[str, str]:
    """A template is one text, or a list of {"name", "template"}."""
    if isinstance(value, str) and value:
        return {"default": value}
    entries = value if isinstance(value, list) else []
    named = {entry.get("name"): entry.get("template") for entry in entries if isinstance(entry, dict)}
    return {name: text for name, text in named.items() if isinstance(name, str) and isinstance(text, str)}


@cache
def _packaged_digests() -> frozenset[str]:
    own = read_own_template(_PACKAGED) if _PACKAGED.is_dir() else None
    return frozenset() if own is None else frozenset({own.digest, sha256(own.with_tools)})
