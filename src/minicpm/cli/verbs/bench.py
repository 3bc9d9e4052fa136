"""Measures how fast a model is on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from minicpm.cli.complete import model_names
from minicpm.cli.options import option, whole_number

_SHAPE = "Random weights in the shape of a published model: MiniCPM4-0.5B, MiniCPM3-4B, SALA-9B, ..."
_CONTEXT = "Tokens before those that are decoded; the cache is filled with them, not computed."


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="nano, a folder, or a pulled ORG/NAME; with --layers only its shape counts.",
            autocompletion=model_names,
        ),
    ] = None,
    *,
    shape: Annotated[str | None, option("--shape", metavar="NAME", help=_SHAPE)] = None,
    layers: Annotated[
        int | None, option("--layers", parser=whole_number, help="Only so many of its layers.")
    ] = None,
    weights: Annotated[
        str, option("--weights", metavar="LIST", help="Of bf16, int8, int4 and ternary, with commas between.")
    ] = "int4",
    prompt: Annotated[str, option("--prompt", metavar="LIST", help="Tokens of prompts to read.")] = "512",
    context: Annotated[str, option("--context", metavar="LIST", help=_CONTEXT)] = "0,4096",
    batch: Annotated[str, option("--batch", metavar="LIST", help="Sequences decoded together.")] = "1",
    sparse: Annotated[
        str, option("--sparse", help="Attend to chosen blocks only: on, off, or auto (as the shape says).")
    ] = "auto",
    kv: Annotated[str, option("--kv", help="Keys and values of the context: auto or int8.")] = "auto",
    threads: Annotated[
        int | None, option("--threads", parser=whole_number, help="Threads, if not one per core.")
    ] = None,
    backend: Annotated[
        str, option("--backend", help="Implementation of the operators: auto, native, torch or reference.")
    ] = "auto",
    repeats: Annotated[
        int, option("--repeats", parser=whole_number, help="Repeats of each measurement.")
    ] = 5,
    plot: Annotated[
        Path | None, option("--plot", metavar="FILE", help="Draw speed against context; png, svg or pdf.")
    ] = None,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure prefill and decode, beside the limits that memory and processor have here and now.

    Without MODEL or --shape that of MiniCPM4-0.5B is measured. A shape has random weights: their values do
    not change speed. Correctness is checked first. Rates are medians, with the least and the greatest; LIMIT
    is the share of what memory or arithmetic, whichever bounds the work, allows. TIME is that of a step, or
    to the first token of a prompt. An empty LIST leaves work out. Ctrl-C keeps what was measured.
    """
    from minicpm.cli import benching

    chosen = benching.choose(
        benching.shape(model, shape, layers),
        weights=weights,
        prompt=prompt,
        context=context,
        batch=batch,
        sparse=sparse,
        kv=kv,
        threads=threads,
        backend=backend,
        repeats=repeats,
    )
    benching.run(chosen, plot=plot, as_json=json)
