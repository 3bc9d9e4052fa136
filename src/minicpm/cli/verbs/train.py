"""Trains a model; one verb per model."""

from typing import ClassVar

import typer

from minicpm.cli import lazy


class Models(lazy.Group):
    """What `minicpm train` can train."""

    package = "minicpm.cli.verbs"
    prefix = "train_"
    verbs: ClassVar[dict[str, str]] = {"nano": "Train nano, the model inside the package."}


group = typer.Typer(cls=Models, context_settings=lazy.CONTEXT, add_completion=False, **lazy.SETTINGS)


@group.callback(invoke_without_command=True)
def train(context: typer.Context) -> None:
    """Train a model."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
