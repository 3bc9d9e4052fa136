"""Measures how far one model's predictions are from another's."""

from pathlib import Path
from typing import Annotated

import typer

from minicpm.cli.complete import model_names
from minicpm.cli.options import option, whole_number

_TEXT = "Text, or JSON lines with a text each; builtin: a short one of the package."
_OTHER = "The other one, of the same vocabulary."
_MODEL = "nano, a folder, a .gguf file, or ORG/NAME."


def command(
    a: Annotated[
        str, typer.Argument(metavar="A", help=f"The original: {_MODEL}", autocompletion=model_names)
    ],
    b: Annotated[
        str,
        typer.Argument(metavar="B", help=_OTHER, autocompletion=model_names),
    ],
    *,
    text: Annotated[
        str,
        option(
            "--text",
            metavar="FILE",
            help=_TEXT,
        ),
    ] = "builtin",
    tokens: Annotated[
        int | None, option("--tokens", parser=whole_number, help="Only so many tokens of the text.")
    ] = None,
    dtype: Annotated[
        str, option("--dtype", help="Number format to compute in: auto, bfloat16, float16 or float32.")
    ] = "auto",
    device: Annotated[str, option("--device", help="Where to compute: cpu, cuda or cuda:N.")] = "cpu",
    backend: Annotated[
        str, option("--backend", help="Implementation of the operators: auto, native, torch or reference.")
    ] = "auto",
    plot: Annotated[
        Path | None, option("--plot", metavar="FILE", help="Draw the divergence of tokens; png, svg or pdf.")
    ] = None,
    offline: Annotated[bool, option("--offline", help="Use only what is on this machine.")] = False,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare what two models predict on a text, token by token, and what their weights take.

    Divergence is the Kullback-Leibler divergence of A's distribution of each next token from B's. Models may
    be of any formats; they must have one vocabulary. The text is read in sequences of 512 tokens.
    """
    from minicpm.cli import comparing
    from minicpm.cli.output import print_json, print_lines

    if plot is not None:
        from minicpm.bench.plot import check_plot

        check_plot(plot)
    opened = [(name, comparing.find(name, offline=offline)) for name in (a, b)]
    loading = {"dtype": dtype, "device": device, "backend": backend}
    comparison = comparing.compare_models(*opened, text, tokens=tokens, loading=loading)
    if plot is not None:
        comparing.draw(comparison, plot)
    if json:
        print_json(comparison.document())
    else:
        print_lines(comparing.lines(comparison))
