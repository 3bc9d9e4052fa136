"""Checks this machine and installation."""

from typing import Annotated

from minicpm.cli.options import option


def command(*, json: Annotated[bool, option("--json", help="Print one JSON document.")] = False) -> None:
    """Check this machine and installation, and say what to do; asks no network."""
    from dataclasses import asdict

    from minicpm.cli.checkup import check_all
    from minicpm.cli.output import print_json, print_lines

    findings = list(check_all())
    if json:
        print_json([{**asdict(finding), "ok": finding.ok} for finding in findings])
        return
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = "ok  " if finding.ok else "warn"
        print_lines([f"{mark}  {finding.subject.ljust(width)}  {finding.found}"])
        if finding.advice is not None:
            print_lines([f"{'':>{width + 8}}-> {finding.advice}"])
