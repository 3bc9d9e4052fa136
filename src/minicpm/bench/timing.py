"""Repeats work and says how long it took: the middle, the least and the greatest."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

ENOUGH_S = 60.0
"""Work is repeated at least twice if asked to, and no further once it has taken this long."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each repeat."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return median(self.seconds)


def repeated(
    work: Callable[[], object], repeats: int, *, between: Callable[[], object] | None = None
) -> Timing:
    """`work` so many times; `between` comes before each and is not counted."""
    seconds: list[float] = []
    while len(seconds) < repeats and not (len(seconds) >= 2 and sum(seconds) > ENOUGH_S):
        if between is not None:
            between()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return Timing(tuple(seconds))
