"""Rounds the weights of a model to few bits, and says what that costs."""

from pathlib import Path
from typing import Annotated

import typer

from minicpm.cli.complete import model_names
from minicpm.cli.options import number, option, whole_number

_METHOD = (
    "rtn (to the nearest), gptq, pgptq (without the outliers of first positions), awq, awq+gptq, awq+pgptq, "
    "or ternary (exact, for models trained so)."
)
_BUDGET = "Choose the bits of each matrix, so that the layers take so many per weight, scales included."
_REPORT = "How far the result is from the original"


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="nano, a folder, a .gguf file, or ORG/NAME.", autocompletion=model_names
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to write.")],
    *,
    method: Annotated[str, option("--method", help=_METHOD)] = "gptq",
    bits: Annotated[
        int | None, option("--bits", parser=whole_number, help="Of each weight: 8, 4, 3 or 2 (default 4).")
    ] = None,
    group: Annotated[
        str | None,
        option("--group", metavar="N", help="Weights of a row per scale: 32, 64, 128 or row (default 64)."),
    ] = None,
    asymmetric: Annotated[
        bool, option("--asymmetric", help="Give each group a zero besides its scale.")
    ] = False,
    bits_for: Annotated[
        list[str] | None,
        option(
            "--bits-for",
            metavar="PATTERN=BITS",
            help="Other bits for matrices whose name matches, such as '*.down_proj=8'; may be repeated.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        option("--keep", metavar="PATTERN", help="Leave matching matrices as they are; may be repeated."),
    ] = None,
    budget: Annotated[float | None, option("--budget", metavar="BITS", parser=number, help=_BUDGET)] = None,
    calib: Annotated[
        str | None,
        option(
            "--calib",
            metavar="FILE",
            help="Text to calibrate with, or JSON lines with a text each; builtin (default): a short one of "
            "the package.",
        ),
    ] = None,
    calib_tokens: Annotated[
        int | None,
        option("--calib-tokens", parser=whole_number, help="At most so many tokens of it (default 65536)."),
    ] = None,
    device: Annotated[str, option("--device", help="Where to compute: cpu, cuda or cuda:N.")] = "cpu",
    text: Annotated[
        str, option("--text", metavar="FILE", help="Text to compare on.", panel=_REPORT)
    ] = "builtin",
    tokens: Annotated[
        int | None,
        option("--tokens", parser=whole_number, help="Only so many tokens of it.", panel=_REPORT),
    ] = None,
    report: Annotated[
        bool, option("--report/--no-report", help="Compare the result with the original.", panel=_REPORT)
    ] = True,
    overwrite: Annotated[bool, option("--overwrite", help="Replace what the target folder holds.")] = False,
    offline: Annotated[bool, option("--offline", help="Use only what is on this machine.")] = False,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Round a model's weights to few bits, layer by layer; prints how good the result is, and its folder.

    The head is rounded to 8 bits, unless --keep or --bits-for name it lm_head; embeddings that are no head,
    norms and routers stay. Patterns are those of a shell over whole names. Ctrl-C keeps finished layers, and
    the same command goes on there. Memory holds one layer, and the hidden states of the calibration text.
    """
    from minicpm.cli import comparing, quantizing
    from minicpm.cli.output import print_json, print_lines

    recipe = quantizing.recipe(
        method=method,
        bits=bits,
        group=group,
        asymmetric=asymmetric,
        bits_for=bits_for or (),
        keep=keep or (),
        budget=budget,
    )
    source = comparing.find(model, offline=offline)
    if report:  # or a slip in its name would show when the work is done
        comparing.read_text(text, source, tokens=tokens)
    layers = quantizing.run(
        model,
        source,
        target,
        recipe,
        calibration=calib,
        device=device,
        overwrite=overwrite,
        **({} if calib_tokens is None else {"tokens": calib_tokens}),
    )
    found = None
    if report:
        found = quantizing.report(model, source, target, text, tokens=tokens, loading={"device": device})
    if json:
        print_json(quantizing.document(target, layers, found))
        return
    print_lines([*comparing.lines(found), ""] if found is not None else [])
    print(target)
