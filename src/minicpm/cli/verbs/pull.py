"""Fetches a model from a hub into the cache, and verifies it."""

from typing import Annotated

import typer

from minicpm.cli.failures import stage
from minicpm.cli.options import option


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="ORG/NAME, or ms:ORG/NAME for ModelScope.")],
    *,
    revision: Annotated[str | None, option("--revision", help="Branch, tag or commit.")] = None,
    bin: Annotated[
        bool, option("--bin", help="Also take legacy .bin weights, for `minicpm convert`.")
    ] = False,
) -> None:
    """Fetch a model from a hub and verify every file; prints the folder.

    An interrupted pull continues where it stopped. HF_ENDPOINT names a mirror, MINICPM_HOME another cache.
    """
    from minicpm.checkpoint import pull
    from minicpm.cli.progress import bytes_bar

    with (
        stage(f"Stopped. What was fetched is kept; `minicpm pull {name}` continues from there."),
        bytes_bar(f"Pulling {name}", always=True) as progress,
    ):
        folder = pull(name, revision=revision, progress=progress, allow_bin=bin)
    print(folder)
