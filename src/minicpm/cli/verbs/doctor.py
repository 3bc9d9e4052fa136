"""Checks this machine and installation, or one model."""

from typing import TYPE_CHECKING, Annotated

import typer

from minicpm.cli.complete import model_names
from minicpm.cli.options import option

if TYPE_CHECKING:
    from minicpm.cli.checkup import Finding


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Check this folder or file, nano, or a pulled ORG/NAME instead.",
            autocompletion=model_names,
        ),
    ] = None,
    *,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check this machine and installation, or one model, and say what to do; asks no network.

    With MODEL: say what it is, whether its files are whole, and whether it is what its name claims. The exit
    status is then 1 where something is wrong.
    """
    from dataclasses import asdict

    from minicpm.cli.output import print_json

    findings = _findings(model)
    if json:
        print_json([{**asdict(finding), "ok": finding.ok} for finding in findings])
    else:
        _print(findings)
    if model is not None and not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _findings(model: str | None) -> "list[Finding]":
    from minicpm.cli.checkup import check_all

    if model is None:
        return list(check_all())
    from minicpm.cli.examination import examine

    return list(examine(model))


def _print(findings: "list[Finding]") -> None:
    from minicpm.cli.output import print_lines
    from minicpm.cli.talk.printable import printable

    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = "ok  " if finding.ok else "warn"
        print_lines([printable(f"{mark}  {finding.subject.ljust(width)}  {finding.found}")])
        if finding.advice is not None:
            print_lines([f"{'':>{width + 8}}-> {finding.advice}"])
