"""Removes pulled models."""

from typing import Annotated

import typer


def command(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names as `minicpm list` shows them.")],
) -> None:
    """Remove pulled models from the cache, all their revisions, and say what that freed."""
    from minicpm.checkpoint import remove
    from minicpm.cli.units import size

    for name in names:
        print(f"Removed {name}: {size(remove(name))} freed.")
