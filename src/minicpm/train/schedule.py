"""Learning-rate schedules: WSD (warm-up, stable, decay; MiniCPM, arXiv 2404.06395, section 4)."""

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A factor of the base learning rate for every step."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    def factor(self, step: int) -> float:
        """The factor at `step`, counted from 0."""
        ...


@dataclass(frozen=True, slots=True)
class WSD:
    """Factor of the base learning rate per step: linear rise, plateau, exponential fall to `floor`.

    `floor` is the ratio reached at the last step: f(s) = floor^((s - S0) / (S - S0)).
    """

    warmup: int
    stable: int
    decay: int
    floor: float = 0.03

    @property
    def steps(self) -> int:
        """Steps in all; `stable` counts the warm-up."""
        return self.stable + self.decay

    def factor(self, step: int) -> float:
        """The factor at `step`, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if step < self.stable:
            return 1.0
        return self.floor ** min((step - self.stable + 1) / max(self.decay, 1), 1.0)
