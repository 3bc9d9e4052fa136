"""Quantizes a model with a line for every layer, then compares the result with the original."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.cli.failures import stage
from minicpm.cli.progress import Journal, journal

if TYPE_CHECKING:
    from minicpm.checkpoint import Checkpoint
    from minicpm.convert.quality import Comparison
    from minicpm.convert.quantizing.events import Event, LayerDone
    from minicpm.convert.quantizing.recipe import Group, Recipe

QUALITY = "quality.json"
"""The file beside the weights that says how far they are from the original."""


def recipe(
    *, group: str | None, bits_for: Sequence[str], keep: Sequence[str], asymmetric: bool, **more: Any
) -> "Recipe":
    """The recipe of the command line, whose patterns have their bits behind an equals sign."""
    from minicpm.convert.quantizing.recipe import Recipe

    return Recipe(
        group=None if group is None else _group(group),
        bits_for=tuple(map(_bits_for, bits_for)),
        keep=tuple(keep),
        symmetric=not asymmetric,
        **more,
    )


def _group(text: str) -> "Group":
    from minicpm.convert.quantizing.recipe import ROW
    from minicpm.errors import BadInput

    if text == ROW:
        return ROW
    try:
        return int(text)
    except ValueError as error:
        raise BadInput(f"--group {text!r} is neither a number of weights nor {ROW}.") from error


def _bits_for(text: str) -> tuple[str, int]:
    from minicpm.errors import BadInput

    pattern, equals, bits = text.rpartition("=")
    if not equals or not pattern or not bits.strip().isdigit():
        raise BadInput(f"--bits-for {text!r} is no pattern with bits. Write it like '*.down_proj=8'.")
    return pattern, int(bits)


@dataclass(slots=True)
class _Telling:
    """Puts events into lines, with the time that is left."""

    journal: Journal
    layers: list["LayerDone"] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def __call__(self, event: "Event") -> None:
        from minicpm.convert.quantizing import events

        match event:
            case events.Started():
                self._start(event)
            case events.Measuring():
                self.journal.now(f"measured layer {event.index + 1} of {event.layers} for the budget")
            case events.Rounding():
                self.journal.now(
                    f"layer {event.index + 1} of {event.layers}, {event.name}{self._left(event)}"
                )
            case events.LayerDone():
                self.layers.append(event)
                self.journal.line(_layer_line(event))

    def _start(self, event: Any) -> None:
        if event.anew:
            self.journal.line(
                f"The work kept in {event.folder} was for another recipe, text or model, so it starts anew."
            )
        if event.finished:
            self.journal.line(
                f"{event.finished} of {event.layers} layers were finished before; it goes on there."
            )

    def _left(self, event: Any) -> str:
        if not self.layers:
            return ""
        per_layer = (time.monotonic() - self.started) / len(self.layers)
        return f", about {per_layer * (event.layers - event.index) / 60:.0f} min left"


def run(
    name: str,
    source: "Checkpoint",
    target: Path,
    chosen: "Recipe",
    *,
    calibration: str | None,
    overwrite: bool,
    **more: Any,
) -> list["LayerDone"]:
    """Quantize to a folder; what was done in this run of every layer."""
    from minicpm.convert.quantizing.driver import quantize
    from minicpm.convert.quantizing.work import work_folder

    kept = work_folder(target.absolute())
    stopped = f"Stopped. Finished layers are kept in {kept}, and the same command goes on there."
    with stage(stopped) as running, journal(f"Quantizing {name}") as lines:
        telling = _Telling(lines)

        def watch(event: "Event") -> None:
            telling(event)
            running.check()

        quantize(source, target, chosen, calibration=calibration, overwrite=overwrite, watch=watch, **more)
    return telling.layers


def report(
    name: str, source: "Checkpoint", target: Path, text: str, *, tokens: int | None, loading: dict[str, Any]
) -> "Comparison":
    """Compare the new model with the original, and write what was found beside its weights."""
    from minicpm.checkpoint import open_checkpoint
    from minicpm.checkpoint.atomic import write_file
    from minicpm.cli.comparing import compare_models

    comparison = compare_models(
        (name, source),
        (str(target), open_checkpoint(target)),
        text,
        tokens=tokens,
        loading=loading,
        stopped=f"Stopped. {target} is complete; its report is left out. `minicpm compare` makes one.",
    )
    document = json.dumps(comparison.document(), indent=2, ensure_ascii=False) + "\n"
    write_file(target / QUALITY, document.encode())
    return comparison


def document(target: Path, layers: Sequence["LayerDone"], comparison: "Comparison | None") -> dict[str, Any]:
    """What was done, for programs."""
    return {
        "folder": str(target),
        "layers": [
            {"layer": layer.index, "error": layer.error, "bits": layer.bits, "errors": layer.errors}
            for layer in layers
        ],
        "quality": None if comparison is None else comparison.document(),
    }


def _layer_line(event: "LayerDone") -> str:
    if not event.errors:
        return f"layer {event.index + 1:>2} of {event.layers}  kept as it is"
    worst = max(event.errors, key=event.errors.__getitem__)
    inside = worst.partition(f".{event.index}.")[2] or worst
    kinds = "/".join(map(str, sorted(set(event.bits.values()), reverse=True)))
    return (
        f"layer {event.index + 1:>2} of {event.layers}  {kinds} bits  error {event.error:.2%}, "
        f"most {event.errors[worst]:.2%} in {inside}"
    )
