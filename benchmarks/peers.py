"""This package beside llama.cpp, OpenVINO and transformers: the same work on the same random weights.

python benchmarks/peers.py [--quick] [--long] [--model MiniCPM4-0.5B] [--layers N] [--threads 2] [--repeats 5]
                           [--llama-python PATH] [--openvino-python PATH] [--transformers-python PATH]
                           [--write docs/benchmarks.md]

Every rival lives in a process of its own, perhaps in an environment of its own, and they take turns. One that
is not installed is left out, and how to install it is said. A cache is filled without computing its tokens
where that can be done; the content makes no difference to speed.
"""

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path

from rivals import plan, report
from rivals.process import OURS, Broken, Worker, workers
from rivals.rounds import Contest, Disagreement, Result, limits

# A quick run ends in ten, on a slow or busy machine with fewer rows.
QUICK_MINUTES = 5


def main() -> None:
    """Check, measure, print; the last line is JSON."""
    options = _options()
    pythons = {
        "llama.cpp": options.llama_python,
        "openvino": options.openvino_python,
        "transformers": options.transformers_python,
    }
    given = {name: python for name, python in pythons.items() if python}
    with workers(given, threads=options.threads, folder=options.folder) as (found, missing):
        for name, reason in missing.items():
            print(f"{name} is left out, {reason}", file=sys.stderr)
        if OURS not in found:
            sys.exit(f"{OURS} itself is missing from {sys.executable}, {missing[OURS]}")
        try:
            _compare(options, found, missing)
        except (Disagreement, Broken) as reason:
            sys.exit(str(reason))


def _compare(options: argparse.Namespace, found: dict[str, Worker], missing: dict[str, str]) -> None:
    versions = {k: v for worker in found.values() for k, v in worker.ask("versions")["versions"].items()}
    bounds = limits(found[OURS])
    contest = Contest(found, options.repeats, options.row_seconds, options.patience)
    rows = _rows(options)
    checks = []
    for shape in dict.fromkeys(row.shape for row in rows):
        checks += contest.check(shape, list(dict.fromkeys(r.weights for r in rows if r.shape == shape)))
    results = _measure(contest, rows, options.minutes or (QUICK_MINUTES if options.quick else math.inf))
    text = f"{report.notes(versions, bounds, checks, options.threads)}\n\n{report.table(results)}"
    print(text)
    if options.write:
        report.write(options.write, f"\n```\n$ {_command(options)}\n```\n\n{text}\n")
    out = {"limits": bounds, "versions": versions, "threads": options.threads, "missing": missing}
    out["checks"] = [
        {"shape": c.shape, "weights": c.weights, "rival": c.rival, "difference": round(c.difference, 5)}
        for c in checks
    ]
    out["rows"] = [report.as_json(result, results) for result in results]
    print(json.dumps(out))


def _measure(contest: Contest, rows: list[plan.Row], minutes: float) -> list[Result]:
    """Rows that are not begun after so many minutes say so instead of speeds."""
    end = time.monotonic() + 60 * minutes
    late = {OURS: "no time left"}
    return [contest.measure(row) if time.monotonic() < end else Result(row, reasons=late) for row in rows]


def _rows(options: argparse.Namespace) -> list[plan.Row]:
    model = plan.shape(options.model, options.layers)
    if options.quick:
        rows = plan.quick_rows(model)
    else:
        rows = plan.all_rows(model, plan.shape(plan.LATENT, options.latent_layers), long=options.long)
    return [row for row in rows if row.weights in options.weights]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--quick", action="store_true", help="decode at 0 and 4096, prefill of 512, no more")
    parser.add_argument("--long", action="store_true", help="rivals take part in the longest prefill")
    parser.add_argument("--model", default="MiniCPM4-0.5B", help="a published shape")
    parser.add_argument("--layers", type=int, help="fewer layers than it has, for a try")
    parser.add_argument("--latent-layers", type=int, default=4, help=f"of {plan.LATENT}")
    parser.add_argument("--weights", nargs="+", default=list(plan.RIVALS), choices=list(plan.RIVALS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row-seconds", type=float, default=240, help="then a row takes no more turns")
    parser.add_argument("--minutes", type=float, help="after which no row begins; 5 with --quick")
    parser.add_argument("--patience", type=float, default=30, help="seconds a row may wait for quiet")
    parser.add_argument("--llama-python", help="an interpreter that has llama-cpp-python and gguf")
    parser.add_argument("--openvino-python", help="one that has openvino, optimum-intel and nncf")
    parser.add_argument("--transformers-python", help="one that has transformers")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="keeps model files and logs")
    parser.add_argument("--write", type=Path, help=f"a page with {report.BEGIN} and {report.END}")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    """What was asked, without places that are of one machine only."""
    parts = ["python", "benchmarks/peers.py"]
    for name in ("quick", "long"):
        parts += [f"--{name}"] if getattr(options, name) else []
    parts += [] if options.weights == list(plan.RIVALS) else ["--weights", *options.weights]
    for name in ("model", "layers", "threads", "repeats", "minutes"):
        value = getattr(options, name)
        parts += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    return shlex.join(parts)


if __name__ == "__main__":
    main()
