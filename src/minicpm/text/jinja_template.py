"""Compiles and renders a chat template in the environment that published templates expect.

This file also runs alone inside the sandbox's child process, so it imports nothing of the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class OutputTooLong(Exception):
    """Raised when a rendered prompt exceeds its cap."""


class GenerationBlock(Extension):
    """`{% generation %}` marks assistant text for training; rendering passes it through."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it without ClassVar

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's body in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def compile_template(source: str) -> jinja2.Template:
    """Raises jinja2.TemplateError where the source is no template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment.from_string(source)


def render(template: jinja2.Template, context: dict[str, Any], max_characters: int) -> str:
    """Raises OutputTooLong as soon as the output passes `max_characters`."""
    return "".join(_capped(template.generate(context), max_characters))


def _capped(parts: Iterable[str], limit: int) -> Iterable[str]:
    size = 0
    for part in parts:
        size += len(part)
        if size > limit:
            raise OutputTooLong(f"more than {limit} characters")
        yield part


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
