"""The program's verbs and what it does before and after one of them."""

import sys
from typing import Annotated, Any, ClassVar

import typer

from minicpm.cli import lazy
from minicpm.cli.options import note_debug, option


class Verbs(lazy.Group):
    """The verbs of `minicpm`, each with the sentence that `minicpm --help` says."""

    package = "minicpm.cli.verbs"
    verbs: ClassVar[dict[str, str]] = {
        "chat": "Talk with a model, or answer one message from standard input.",
        "run": "Answer one prompt and print the answer.",
        "embed": "Turn lines of text into vectors.",
        "rerank": "Sort lines of text by how well they answer a query.",
        "show": "Describe a model: sizes, context, memory, template, licence.",
        "models": "List the models that this version can load.",
        "pull": "Fetch a model from a hub and verify it.",
        "list": "List the models that are here.",
        "rm": "Remove pulled models.",
        "convert": "Turn a model into another format, for another program.",
        "quantize": "Round a model's weights to few bits, and measure what that costs.",
        "compare": "Measure how far one model's predictions are from another's.",
        "train": "Train a model.",
        "bench": "Measure speed, beside what this machine can do at most.",
        "doctor": "Check this machine and installation, or a model, and say what to do.",
    }


app = typer.Typer(
    cls=Verbs,
    context_settings=lazy.CONTEXT,
    epilog="Start with `minicpm chat`. Any option may also come from the environment: --context of `chat` is "
    "MINICPM_CHAT_CONTEXT.",
    **lazy.SETTINGS,
)


def _print_version(asked: bool) -> None:
    if asked:
        from minicpm import __version__

        typer.echo(f"minicpm {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def minicpm(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
            allow_from_autoenv=False,
        ),
    ] = False,
    debug: Annotated[bool, option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Load, run and train MiniCPM models."""
    note_debug(context, debug)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: list[str] | None = None, **settings: Any) -> int:
    """Runs one command line, this process's own by default, and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark instead of the end of the program.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="replace")
    try:
        command = typer.main.get_command(app)
        command.main(arguments, prog_name="minicpm", auto_envvar_prefix="MINICPM", **settings)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
