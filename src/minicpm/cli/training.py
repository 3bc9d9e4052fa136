"""Runs a training with live progress, a clean stop on Ctrl-C, and a plot at the end."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from minicpm.cli.failures import Interrupted, stage
from minicpm.cli.talk.interrupts import Interrupts
from minicpm.errors import MissingExtra

if TYPE_CHECKING:
    from minicpm.train.loop import Progress
    from minicpm.train.nano.recipe import Recipe

_LINE_EVERY_S = 30.0
_RECENT = 0.05
"""Weight of a new value in the loss and rate that are shown."""


class Show(Protocol):
    """Shows how far a training is."""

    def __call__(self, step: int, text: str) -> None:
        """After every step."""
        ...


def train_with_progress(out: Path, recipe: "Recipe", corpus: Path | None) -> Path:
    """Trains nano in `out` and returns the finished model's folder; says what was kept when it is stopped."""
    from minicpm.train.nano.run import train_nano

    interrupts = Interrupts()
    unbegun = f"Stopped before the first step; the same command begins in {out} again."
    with stage(unbegun), _live(recipe) as show:
        listener = _Listener(out, show, interrupts)
        try:
            model = train_nano(out, recipe=recipe, corpus=corpus, listen=listener)
        finally:
            interrupts.end()
    _plot(out)
    return model


class _Listener:
    """Hears of every step: shows it, and stops the training between two steps after Ctrl-C."""

    def __init__(self, out: Path, show: Show, interrupts: Interrupts) -> None:
        self._out, self._show, self._interrupts = out, show, interrupts
        self._began = False
        self._loss = self._rate = 0.0

    def __call__(self, progress: "Progress", stage: str) -> None:
        """Called by the training after every step."""
        weight = _RECENT if self._began else 1.0
        self._loss += weight * (progress.loss - self._loss)
        self._rate += weight * (progress.tokens / progress.seconds - self._rate)
        self._show(progress.step, f"{stage}, loss {self._loss:.3f}, {self._rate:,.0f} tokens/s")
        if not self._began:
            # Before the first step nothing is half done, and Ctrl-C stops at once.
            self._began = True
            self._interrupts.start()
        if self._interrupts.came:
            raise Interrupted(_kept(self._out, progress.step))


def _kept(out: Path, step: int) -> str:
    from minicpm.train.state import latest_state

    state = latest_state(out)
    if state is None:
        return (
            f"Stopped after step {step}; no state was saved yet, so the same command begins in {out} again."
        )
    return f"Stopped after step {step}. {state} is kept, and the same command continues from there."


@contextmanager
def _live(recipe: "Recipe") -> Iterator[Show]:
    if sys.stderr.isatty():
        with _bar(recipe.schedule.steps) as show:
            yield show
    else:
        yield _Lines(recipe.schedule.steps)


@contextmanager
def _bar(steps: int) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    # The remaining time follows the last minutes, since stages differ in speed.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as progress:
        task = progress.add_task("making tokenizer and first texts", total=steps)
        yield lambda step, text: progress.update(task, completed=step, description=text)


class _Lines:
    """A line now and then, for logs."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._began: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, step: int, text: str) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)
        if now - self._last < _LINE_EVERY_S and step < self._steps:
            return
        self._last = now
        line = f"step {step} of {self._steps}, {text}{self._remaining(now, step)}"
        print(line, file=sys.stderr, flush=True)

    def _remaining(self, now: float, step: int) -> str:
        assert self._began is not None, "called after the first step"
        began, first = self._began
        if step == first:
            return ""
        return f", {(now - began) / (step - first) * (self._steps - step) / 60:.0f} min remaining"


def _plot(out: Path) -> None:
    from minicpm.train.plot import plot_log

    try:
        pictures = plot_log(out / "log.jsonl", out / "training")
    except MissingExtra as error:
        print(f"{error} The model is complete without it.", file=sys.stderr)
        return
    print(f"Plotted to {' and '.join(map(str, pictures))}.", file=sys.stderr)
