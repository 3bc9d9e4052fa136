"""Draws speed against context: a line for each kind of weights and batch."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from minicpm.bench.measuring import Row
from minicpm.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")


def check_plot(target: Path) -> None:
    """Raise BadInput for a file that cannot be drawn to, and MissingExtra without matplotlib."""
    if target.suffix[1:].lower() not in FORMATS:
        raise BadInput(f"The name {target} says no format. End it in one of: .{', .'.join(FORMATS)}.")
    if not target.resolve().parent.is_dir():
        raise BadInput(f"The folder of {target} does not exist. Make it, or name another file.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "The plot needs matplotlib, which is not installed. `pip install 'minicpm[plot]'` installs it."
        ) from error


def plot_rows(rows: Sequence[Row], target: Path) -> None:
    """Draw the rows of one shape to `target`; its name says the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    kinds = [kind for kind in ("decode", "prefill") if any(row.work == kind for row in rows)]
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        chosen = sorted((row for row in rows if row.work == kind), key=_line)
        for (weights, batch), line in groupby(chosen, key=_line):
            points = sorted(line, key=lambda row: row.context)
            label = weights if batch == 1 else f"{weights}, {batch} sequences"
            contexts, rates = [row.context for row in points], [row.tok_s for row in points]
            low = [row.tok_s - row.tok_s_least for row in points]
            high = [row.tok_s_greatest - row.tok_s for row in points]
            axes.errorbar(contexts, rates, yerr=[low, high], marker="o", capsize=3, label=label)
        axes.set(title=f"{kind}, {_title(rows[0])}", xlabel="tokens of context", ylabel="tokens per second")
        axes.set_ylim(bottom=0)
        axes.legend()
    write_figure(figure, target)


def _line(row: Row) -> tuple[str, int]:
    return row.weights, row.batch


def _title(row: Row) -> str:
    return f"{row.shape}, {row.layers} layers" + (", sparse" if row.sparse else "")


def write_figure(figure: "Figure", target: Path) -> None:
    """Write a figure to `target`, whose name says the format; the same figure gives the same file."""
    kind = target.suffix[1:].lower()
    figure.savefig(target, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
