"""Groups of verbs whose modules are imported only when the verb is called, and how their help looks."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from minicpm.cli import failures
from minicpm.cli.options import DEBUG, with_debug

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# Drawing help with rich would take longer than all the rest of `minicpm --help`.
SETTINGS: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
_ADDED_FLAGS = frozenset({"help", "install_completion", "show_completion"})


class _Light:
    """How the help of commands and groups looks, and that it is quick."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, those that typer adds made like the others."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            param.show_envvar = False
            if param.name in _ADDED_FLAGS and param.is_flag:
                # Their default None would become a bool through pydantic, if installed: an import of 0.1 s.
                param.default = False
        return params

    def get_help(self, ctx: Any) -> str:
        """The help text, its headings bold on a terminal."""
        return _with_headings(super().get_help(ctx))  # type: ignore[misc]


class Verb(_Light, TyperCommand):
    """A command whose help has one section per panel of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, own options, then the panels in the order of their first option."""
        _write_sections(self.get_params(ctx), ctx, formatter)


class Group(_Light, TyperGroup):
    """A group that knows its verbs by name and sentence, and imports a verb's module when it is called.

    The module of a verb is `package.prefixverb`; it holds the function `command`, or a typer app `group`.
    """

    package: ClassVar[str]
    prefix: ClassVar[str] = ""
    verbs: ClassVar[dict[str, str]]

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the table."""
        return list(self.verbs)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command behind a name, or None."""
        if cmd_name not in self.verbs:
            return None
        return load(cmd_name, f"{self.package}.{self.prefix}{cmd_name}")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuses an unknown verb with the nearest one."""
        name = args[0]
        if name not in self.verbs:
            ctx.fail(f"No such command {name!r}.{nearest(name, self.verbs)}")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Commands first: they are what one looks for."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))
        _write_sections(self.get_params(ctx), ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Runs a verb; an error becomes a sentence and an exit code."""
        with failures.told(lambda: bool(ctx.meta.get(DEBUG))):
            return super().invoke(ctx)


def load(name: str, path: str) -> Any:
    """The command `name` that the module at `path` holds."""
    module = import_module(path)
    if hasattr(module, "group"):
        return typer.main.get_command(module.group)
    single = typer.Typer(add_completion=False, **SETTINGS)
    single.command(name, cls=Verb, context_settings=CONTEXT)(with_debug(module.command))
    return typer.main.get_command(single)


def nearest(name: str, known: Iterable[str]) -> str:
    """A question, with a blank before it, that suggests the nearest known name; empty when none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _write_sections(params: Iterable[Any], ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        if (record := param.get_help_record(ctx)) is not None:
            argument = param.param_type_name == "argument"
            title = "Arguments" if argument else getattr(param, "rich_help_panel", None) or "Options"
            sections.setdefault(title, []).append(record)
    for title, records in sections.items():
        with formatter.section(title):
            formatter.write_dl(records)


def _with_headings(text: str) -> str:
    return "\n".join(map(_heading, text.split("\n")))


def _heading(line: str) -> str:
    # typer.echo takes the escape codes away again where the output is no terminal.
    return typer.style(line, bold=True) if line[:1].isalpha() and line.endswith(":") else line
