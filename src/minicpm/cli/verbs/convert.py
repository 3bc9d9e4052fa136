"""Turns a model into another format."""

from enum import StrEnum
from typing import Annotated

import typer

from minicpm.cli.failures import stage
from minicpm.cli.options import option


class Format(StrEnum):
    """What a model can be turned into."""

    safetensors = "safetensors"
    gguf = "gguf"
    llama = "llama"
    gptq = "gptq"
    awq = "awq"
    mlx = "mlx"


def command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="nano, a folder, a .gguf file, or a pulled ORG/NAME.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Folder to write.")],
    *,
    to: Annotated[
        Format, option("--to", help="Format to write; llama has the muP scales in its weights.")
    ] = Format.safetensors,
    type: Annotated[
        str | None,
        option(
            "--type",
            metavar="TYPE",
            help="Of GGUF: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, and TQ1_0 or TQ2_0 for ternary "
            "models. As it is without.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        option("--base", metavar="MODEL", help="Model that a LoRA is for, where its folder does not say."),
    ] = None,
    dry_run: Annotated[bool, option("--dry-run", help="Only print the files and their sizes.")] = False,
    overwrite: Annotated[bool, option("--overwrite", help="Replace what the target folder holds.")] = False,
) -> None:
    """Turn a model, or a LoRA, into another format; prints the new folder.

    SOURCE may hold legacy .bin weights: these are opened in a process of its own, as plain tensors only,
    because they can run code. A folder is there complete or not at all.
    """
    from minicpm.cli.converting import Order, convert
    from minicpm.cli.output import print_lines
    from minicpm.cli.progress import bytes_bar
    from minicpm.cli.units import columns, size

    order = Order(source, target, str(to), type=type, base=base, overwrite=overwrite, dry_run=dry_run)
    with (
        stage(f"Stopped. Nothing was written to {target}."),
        bytes_bar("Converting", always=True) as progress,
    ):
        outcome = convert(order, progress)
    typer.echo("".join(f"Note: {note}\n" for note in outcome.notes), err=True, nl=False)
    if dry_run:
        rows = [[name, f"{nbytes:,} bytes", size(nbytes)] for name, nbytes in outcome.files.items()]
        print_lines(columns(rows))
    else:
        print(outcome.path)
