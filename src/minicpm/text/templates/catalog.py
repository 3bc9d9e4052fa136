"""The built-in formats by name."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from functools import cache

from minicpm.errors import TemplateError
from minicpm.text.templates import chatml, minicpm5, minicpm41, nano, omnilmm, v1
from minicpm.text.templates.conversation import Renderer


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A format and what sets it apart.

    `markers` are its framing spellings, which a vocabulary may hold as control tokens or spell as text.
    `thinks` tells that it has a thinking switch, `suffixes` that /think and /no_think at the end of the last
    user message work it too.
    """

    name: str
    render: Renderer
    markers: frozenset[str]
    takes_tools: bool
    thinks: bool = False
    suffixes: bool = False

    @property
    def digest(self) -> str:
        """sha256 of the format's source text, to name the version of a built-in."""
        return _digest(self.render)


_TURNS = frozenset({"<|im_start|>", "<|im_end|>"})
_THINK = frozenset({"<think>", "</think>"})
_CALLS = frozenset({"<|thought_start|>", "<|thought_end|>", "<|tool_call_start|>", "<|tool_call_end|>"})
_ROLES = frozenset({"<|system|>", "<|user|>", "<|assistant|>"})
_XML = frozenset({"<function", "</function>", "<param", "</param>", "<tool_response>", "</tool_response>"})

_ALL = {
    template.name: template
    for template in (
        BuiltIn("minicpm-v1", v1.render, frozenset({"<用户>", "<AI>"}), takes_tools=False),
        BuiltIn("omnilmm", omnilmm.render, _ROLES, takes_tools=False),
        BuiltIn("chatml", chatml.render, _TURNS | _CALLS, takes_tools=True),
        BuiltIn("minicpm4.1", minicpm41.render, _TURNS | _CALLS | _THINK, True, thinks=True, suffixes=True),
        BuiltIn("minicpm5", minicpm5.render, _TURNS | _XML | _THINK, takes_tools=True, thinks=True),
        BuiltIn("nano", nano.render, _TURNS | _CALLS | _THINK, takes_tools=True, thinks=True),
    )
}


def built_in(name: str) -> BuiltIn:
    """The format called `name`; raises TemplateError."""
    if name not in _ALL:
        known = ", ".join(names())
        raise TemplateError(f"There is no built-in chat template {name!r}. Use one of {known}.")
    return _ALL[name]


def names() -> list[str]:
    """All built-in formats."""
    return sorted(_ALL)


@cache
def _digest(render: Renderer) -> str:
    source = inspect.getsourcefile(render)
    assert source is not None, "a built-in format has a source file"
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
