"""The shapes of published models by name, whole or shortened to a few layers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minicpm.config import LayerConfig, ModelConfig, NextToken
from minicpm.errors import BadParameter
from minicpm.models.published import published
from minicpm.models.registry import parse

_ALIASES = {"SALA-9B": "MiniCPM-SALA", "SALA": "MiniCPM-SALA", "MoE-8x2B": "MiniCPM-MoE-8x2B"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model that writes text, described; what it sees with is left out.

    `folder` holds the weights to measure it with; without one they are random.
    """

    name: str
    config: ModelConfig
    folder: Path | None = None


def shape_names() -> list[str]:
    """What `published_shape` knows, in order of publication, then short names."""
    rows = [row.name for row in published() if isinstance(parse(row.raw).head, NextToken)]
    return [*rows, *_ALIASES]


def published_shape(name: str) -> Shape:
    """The shape of that name, upper or lower case; BadParameter, listing the known ones, for another."""
    known = {spelled.lower(): _ALIASES.get(spelled, spelled) for spelled in shape_names()}
    if name.lower() not in known:
        raise BadParameter(f"The shape {name!r} is not known. Use one of: {', '.join(shape_names())}.")
    full = known[name.lower()]
    (row,) = [row for row in published() if row.name == full]
    return shape_of(full, parse(row.raw))


def shape_of(name: str, config: ModelConfig, folder: Path | None = None) -> Shape:
    """The shape of any model that writes text; BadParameter for one that does something else."""
    if not isinstance(config.head, NextToken):
        raise BadParameter(
            f"{name} writes no text: it embeds or ranks. Name a model that writes, or a --shape."
        )
    return Shape(name, replace(config, vision=None), folder if config.vision is None else None)


def with_layers(shape: Shape, count: int) -> Shape:
    """The shape with `count` of its layers: the first run of neighbours whose kinds are mixed most like all.

    Where all layers are of one kind these are the first. Their weights are random. BadParameter for more than
    there are, or none.
    """
    layers = shape.config.layers
    if not 1 <= count <= len(layers):
        raise BadParameter(f"{count} layers were asked for, and {shape.name} has 1 to {len(layers)}.")
    whole = _mix(layers)
    runs = [layers[start : start + count] for start in range(len(layers) - count + 1)]
    nearest = min(runs, key=lambda run: _distance(_mix(run), whole))
    return Shape(shape.name, replace(shape.config, layers=nearest))


def _mix(layers: Sequence[LayerConfig]) -> dict[type, float]:
    """The share of each kind of mixer."""
    counts = Counter(type(layer.mixer) for layer in layers)
    return {kind: count / len(layers) for kind, count in counts.items()}


def _distance(mix: dict[type, float], whole: dict[type, float]) -> float:
    return sum(abs(share - mix.get(kind, 0.0)) for kind, share in whole.items())
