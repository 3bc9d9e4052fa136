"""What quantizing tells of its progress, as it comes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Started:
    """Work begins: how many layers there are, how many of them were finished before, and where it is kept.

    `anew` says that work of other settings was given up.
    """

    layers: int
    finished: int
    folder: Path
    anew: bool


@dataclass(frozen=True, slots=True)
class Measuring:
    """The losses of a layer's matrices were measured for a budget; `index` counts from 0."""

    index: int
    layers: int


@dataclass(frozen=True, slots=True)
class Rounding:
    """A matrix is being rounded."""

    index: int
    layers: int
    name: str


@dataclass(frozen=True, slots=True)
class LayerDone:
    """A layer is rounded and on the disk: bits and error of each of its matrices by name.

    An error is relative: of outputs over the calibration text, or of the matrix where there was none.
    """

    index: int
    layers: int
    bits: Mapping[str, int]
    errors: Mapping[str, float]

    @property
    def error(self) -> float:
        """The mean of the errors."""
        return sum(self.errors.values()) / max(len(self.errors), 1)


Event = Started | Measuring | Rounding | LayerDone
