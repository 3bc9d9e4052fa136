"""Draws a training log: loss and learning rate over the tokens seen, one shade per stage."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
_RADIUS_SHARE = 0.005
"""The smoothed loss is a mean over this share of the steps on either side."""


@dataclass(frozen=True, slots=True)
class Point:
    """One step: its loss, its share of the highest learning rate, and the tokens seen until its end."""

    step: int
    stage: str
    loss: float
    factor: float
    tokens: int


def plot_log(log: Path, target: Path, *, title: str = "nano") -> list[Path]:
    """Draws the JSON-lines log to `target`.png and `target`.svg, and returns their paths.

    Raises MissingExtra without matplotlib and BadInput for a log without steps.
    """
    points = read_log(log)
    figure = _draw(points, title)
    return [_write(figure, target.with_name(f"{target.name}.{kind}"), kind) for kind in FORMATS]


def read_log(log: Path) -> list[Point]:
    """The steps of a log in order; of a step that a resumed run did again, the later line counts."""
    if not log.is_file():
        raise BadInput(
            f"{log} does not exist, so there is nothing to plot. Give the log.jsonl of a training run."
        )
    lines = log.read_text(encoding="utf-8").splitlines()
    steps = {entry["step"]: entry for line in lines if (entry := _entry(line)) is not None}
    if not steps:
        raise BadInput(f"{log} holds no training step, so there is nothing to plot. Train for a step first.")
    entries = [steps[step] for step in sorted(steps)]
    seen = accumulate(int(entry["tokens"]) for entry in entries)
    return [
        Point(int(e["step"]), str(e["stage"]), float(e["loss"]), float(e["factor"]), tokens)
        for e, tokens in zip(entries, seen, strict=True)
    ]


def smoothed(values: Sequence[float], radius: int) -> list[float]:
    """The mean of each value and its neighbours up to `radius` away, fewer at the ends."""
    sums = [0.0, *accumulate(values)]
    bounds = [(max(0, i - radius), min(len(values), i + radius + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in bounds]


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the log; None for the torn last line of a killed run."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "step" in entry else None


def _draw(points: Sequence[Point], title: str) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "The plot needs matplotlib, which is not installed. `pip install 'minicpm[plot]'` installs it."
        ) from error
    figure = Figure(figsize=(9, 5), layout="constrained")
    losses = figure.add_subplot()
    rates = losses.twinx()
    tokens = [point.tokens / 1e6 for point in points]
    _shade(losses, points)
    losses.plot(tokens, [point.loss for point in points], color="tab:blue", alpha=0.25, linewidth=0.6)
    radius = round(_RADIUS_SHARE * len(points))
    losses.plot(tokens, smoothed([point.loss for point in points], radius), color="tab:blue", label="loss")
    rates.plot(tokens, [point.factor for point in points], color="tab:orange", label="learning rate")
    losses.set(xlabel="million tokens", ylabel="loss (nats per token)", title=title, xlim=(0, tokens[-1]))
    rates.set(ylabel="share of the highest learning rate", ylim=(0, 1.05))
    losses.legend(handles=[*losses.get_lines()[1:], *rates.get_lines()], loc="center right")
    return figure


def _shade(axes: Any, points: Sequence[Point]) -> None:
    """A band and a name for each stage."""
    start = 0.0
    for index, (stage, group) in enumerate(groupby(points, key=lambda point: point.stage)):
        end = list(group)[-1].tokens / 1e6
        axes.axvspan(start, end, color="black", alpha=0.04 * (index % 2), linewidth=0)
        axes.annotate(
            stage, ((start + end) / 2, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8
        )
        start = end


def _write(figure: "Figure", path: Path, kind: str) -> Path:
    beside = path.with_name(f".{path.name}.part")
    # Without a date the same log gives the same file.
    figure.savefig(beside, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
    return path
