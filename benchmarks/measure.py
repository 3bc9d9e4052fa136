"""Timing and physical limits shared by the benchmarks."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Rates:
    """Units of work per second over repeated runs."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    def summary(self) -> dict[str, float]:
        """Median, least and greatest."""
        return {
            "median": round(self.median, 2),
            "min": round(min(self.values), 2),
            "max": round(max(self.values), 2),
        }


def side_by_side(works: dict[str, Work], units: int, repeats: int) -> dict[str, Rates]:
    """Units per second of each work, the works taking turns so that all meet the same machine."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return {name: Rates(tuple(units / s for s in values)) for name, values in seconds.items()}


def read_bandwidth(repeats: int = 5) -> float:
    """Bytes per second one pass over 1 GiB reaches on all threads."""
    block = torch.ones(1 << 28, dtype=torch.float32)
    rates = side_by_side({"read": block.sum}, block.nbytes, repeats)
    return rates["read"].median


def matmul_rate(repeats: int = 5) -> float:
    """bf16 multiply-adds, counted as two operations, per second of a large product."""
    a = torch.randn(1024, 4096, dtype=torch.bfloat16)
    b = torch.randn(4096, 4096, dtype=torch.bfloat16)
    rates = side_by_side(
        {"mm": lambda: torch.nn.functional.linear(a, b)}, 2 * a.numel() * b.shape[0], repeats
    )
    return rates["mm"].median
