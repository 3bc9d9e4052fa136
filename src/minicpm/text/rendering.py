"""Renders a conversation by the checkpoint's own template, or by a built-in format where it has none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from minicpm.errors import TemplateError
from minicpm.text.sandbox import Limits, Sandbox
from minicpm.text.template_files import OwnTemplate, is_packaged, read_own_template
from minicpm.text.templates import BuiltIn, Conversation

Origin: TypeAlias = Literal["checkpoint", "built-in"]


class Rendering(Protocol):
    """A way to turn a conversation into the text of a prompt."""

    origin: Origin
    digest: str
    source: str

    def render(self, conversation: Conversation, *, characters: int) -> str:
        """The prompt, of at most `characters`; raises TemplateError."""
        ...


class BuiltInRendering:
    """A format of this package; it cannot write more than it is given."""

    origin: Origin = "built-in"
    source = ""

    def __init__(self, template: BuiltIn) -> None:
        self._template = template
        self.digest = template.digest

    def render(self, conversation: Conversation, *, characters: int) -> str:
        """Needs no cap."""
        return self._template.render(conversation)


class OwnRendering:
    """The checkpoint's template: known text here, unknown text in the sandbox."""

    origin: Origin = "checkpoint"

    def __init__(self, template: OwnTemplate, names: Mapping[str, str], limits: Limits | None) -> None:
        self._template = template
        self._names = dict(names)
        self._sandbox = Sandbox(limits)
        self.digest = template.digest
        self.source = template.default + template.with_tools

    def render(self, conversation: Conversation, *, characters: int) -> str:
        """Gives the template the variables that published templates read."""
        source = self._template.with_tools if conversation.tools else self._template.default
        context = self._context(conversation)
        if is_packaged(source):
            return _render_here(source, context, characters)
        return self._sandbox.render(source, context, characters=characters)

    def _context(self, conversation: Conversation) -> dict[str, Any]:
        context: dict[str, Any] = {
            **self._names,
            "messages": conversation.turns,
            "tools": conversation.tools or None,
            "add_generation_prompt": conversation.generate,
        }
        if conversation.enable_thinking is not None:
            context["enable_thinking"] = conversation.enable_thinking
        return context


def choose_rendering(
    folder: Path, fallback: BuiltIn, names: Mapping[str, str], limits: Limits | None
) -> Rendering:
    """The checkpoint's template where it has one."""
    own = read_own_template(folder)
    return BuiltInRendering(fallback) if own is None else OwnRendering(own, names, limits)


def _render_here(source: str, context: dict[str, Any], characters: int) -> str:
    import jinja2

    from minicpm.text.jinja_template import OutputTooLong, render

    try:
        return render(_compiled(source), context, characters)
    except (jinja2.TemplateError, OutputTooLong, TypeError, ValueError) as error:
        raise TemplateError(
            f"The packaged chat template failed: {error}. Install the package again."
        ) from error


@cache
def _compiled(source: str) -> Any:
    from minicpm.text.jinja_template import compile_template

    return compile_template(source)
