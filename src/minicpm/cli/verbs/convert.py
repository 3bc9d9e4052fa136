"""Turns legacy .bin weights into safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from minicpm.cli.failures import stage
from minicpm.cli.options import option


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder with config.json and pytorch_model*.bin.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to write.")],
    *,
    overwrite: Annotated[bool, option("--overwrite", help="Replace what the target folder holds.")] = False,
) -> None:
    """Turn a model folder with legacy .bin weights into one with safetensors; prints the new folder.

    The old files are opened in a process of its own, as plain tensors only, because they can run code.
    """
    from minicpm.checkpoint import convert_bin
    from minicpm.cli.progress import bytes_bar

    with (
        stage(f"Stopped. Nothing was written to {target}."),
        bytes_bar("Converting", always=True) as progress,
    ):
        folder = convert_bin(source, target, overwrite=overwrite, progress=progress)
    print(folder)
