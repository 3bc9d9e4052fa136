"""What one run of quantizing has in its hands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from minicpm.convert.quantizing.events import Event
from minicpm.convert.quantizing.flow import Flow
from minicpm.convert.quantizing.parts import Source
from minicpm.convert.quantizing.work import Work
from minicpm.convert.texts import Sequences
from minicpm.quant.grid import Grid
from minicpm.quant.methods import Method

Watch = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Job:
    """Source, method, calibration text if there is one, where finished parts are, and who is told."""

    source: Source
    method: Method
    sequences: Sequences | None
    device: torch.device
    work: Work
    watch: Watch

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.source.config.layers)

    def flow(self) -> Flow | None:
        """The calibration text before the first layer."""
        return None if self.sequences is None else Flow(self.source, self.sequences, self.device)

    def inside(self, index: int, grids: Mapping[str, Grid]) -> dict[str, Grid]:
        """The grids of one layer, by names in its block."""
        prefix = f"{self.source.layer(index)}."
        return {name.removeprefix(prefix): g for name, g in grids.items() if name.startswith(prefix)}
