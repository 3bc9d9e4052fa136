"""Runs measurements with a sign of life, and prints their rows, also those before a Ctrl-C."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.cli.failures import stage

if TYPE_CHECKING:
    from minicpm.bench.measuring import Event, Plan, Row
    from minicpm.bench.shapes import Shape

DEFAULT_SHAPE = "MiniCPM4-0.5B"
_HEADING = (
    "WORK",
    "WEIGHTS",
    "CONTEXT",
    "BATCH",
    "TOKENS/S",
    "LEAST",
    "MOST",
    "TIME",
    "OF LIMIT",
    "GB/S",
    "GOP/S",
)


def shape(model: str | None, name: str | None, layers: int | None) -> "Shape":
    """The shape that the command line names, of a model that is here or of a published one."""
    from minicpm.bench.shapes import published_shape, with_layers
    from minicpm.errors import BadInput

    if model is not None and name is not None:
        raise BadInput(f"Both {model} and --shape {name} name what to measure. Give one of them.")
    found = _own_shape(model) if model is not None else published_shape(name or DEFAULT_SHAPE)
    return found if layers is None else with_layers(found, layers)


def _own_shape(model: str) -> "Shape":
    from minicpm.bench.shapes import shape_of
    from minicpm.checkpoint import open_checkpoint, resolve
    from minicpm.models.registry import parse

    folder = resolve(model, offline=True)
    name = folder.name if Path(model).is_dir() else model
    return shape_of(name, parse(open_checkpoint(folder).raw_config), folder)


def choose(of: "Shape", *, weights: str, prompt: str, context: str, batch: str, **more: Any) -> "Plan":
    """The plan of the command line, whose lists have commas between."""
    from minicpm.bench.measuring import Plan

    return Plan(
        shape=of,
        weights=_words(weights),
        prompts=_numbers("--prompt", prompt),
        contexts=_numbers("--context", context),
        batches=_numbers("--batch", batch),
        **more,
    )


def run(plan: "Plan", *, plot: Path | None, as_json: bool) -> None:
    """Measures, and prints a table or a document, and draws a plot where one is asked for."""
    from minicpm.bench.measuring import measure
    from minicpm.bench.plot import check_plot
    from minicpm.cli.progress import activity

    if plot is not None:
        check_plot(plot)
    events: list[Event] = []
    with stage("Stopped. What was measured until then is complete.") as running:
        try:
            with activity("Measuring") as say:
                for event in measure(plan, say=say):
                    events.append(event)
                    running.check()
        finally:
            _print(plan, events, as_json=as_json)
    if plot is not None:
        _draw(events, plot)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(name: str, text: str) -> tuple[int, ...]:
    from minicpm.errors import BadInput

    try:
        return tuple(int(part) for part in _words(text))
    except ValueError as error:
        raise BadInput(f"{name} {text!r} is no list of whole numbers. Write it like 512,2048.") from error


def _print(plan: "Plan", events: "Sequence[Event]", *, as_json: bool) -> None:
    """What there is; nothing where not even the limits are known."""
    if not events:
        return
    from minicpm.bench.measuring import document
    from minicpm.cli.output import print_json, print_lines

    if as_json:
        print_json(document(events))
    else:
        print_lines(_lines(plan, events))


def _lines(plan: "Plan", events: "Sequence[Event]") -> list[str]:
    from minicpm.bench.limits import Limits
    from minicpm.bench.measuring import Checked, Row
    from minicpm.cli.units import columns

    lines = [_title(plan)]
    lines += [_limit_line(event) for event in events if isinstance(event, Limits)][-1:]
    lines += [_check_line(event) for event in events if isinstance(event, Checked)]
    rows = [event for event in events if isinstance(event, Row)]
    if rows:
        lines += ["", *columns([_HEADING, *map(_cells, rows)]), "", _peak_line(rows)]
    return lines


def _title(plan: "Plan") -> str:
    weights = "random weights" if plan.shape.folder is None else "its own weights"
    kv = "" if plan.kv == "auto" else f", keys and values in {plan.kv}"
    return f"{plan.shape.name}, {len(plan.shape.config.layers)} layers, {weights}{kv}"


def _limit_line(limits: Any) -> str:
    return (
        f"limits of {limits.threads} threads ({limits.source}): {limits.read_bytes_s / 1e9:.1f} GB/s read, "
        f"{limits.float_ops_s / 1e9:,.0f} Gop/s on floats, {limits.int8_ops_s / 1e9:,.0f} Gop/s on bytes"
    )


def _check_line(checked: Any) -> str:
    return (
        f"{checked.weights}: logits within {checked.against_float32:.2%} of float32, "
        f"in chunks within {checked.chunks_against_whole:.2%} of whole"
    )


def _peak_line(rows: "Sequence[Row]") -> str:
    from minicpm.cli.units import size

    return f"peak memory {size(max(row.peak_bytes for row in rows))}"


def _cells(row: "Row") -> tuple[str, ...]:
    return (
        row.work,
        row.weights,
        f"{row.context:,}",
        str(row.batch),
        _rate(row.tok_s),
        _rate(row.tok_s_least),
        _rate(row.tok_s_greatest),
        _time(row.seconds),
        f"{row.share_of_limit:.0%} {row.bound}",
        f"{row.read_bytes_s / 1e9:.1f}",
        f"{row.ops_s / 1e9:,.0f}",
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


def _draw(events: "Sequence[Event]", plot: Path) -> None:
    from minicpm.bench.measuring import Row
    from minicpm.bench.plot import plot_rows

    rows = [event for event in events if isinstance(event, Row)]
    if rows:
        plot_rows(rows, plot)
        print(plot, file=sys.stderr)
