"""What this machine can do at most, measured on the spot."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch

from minicpm.bench.work import Work
from minicpm.checkpoint.available import memory_limits, tightest
from minicpm.ops.native import instruction_set, module
from minicpm.ops.native.runtime import Runtime

_BLOCK = 1 << 30
"""Bytes read for the bandwidth: beyond any cache, unless memory is short."""
_PASSES = 7


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all threads together: bytes read per second, operations per second on floats and on bytes.

    The best of several passes each, and for reading the median too. Floats are multiplied as float32, or as
    bfloat16 where that is faster, and bytes as floats where that is.
    """

    source: str
    threads: int
    read_bytes_s: float
    read_bytes_s_median: float
    float_ops_s: float
    int8_ops_s: float

    def seconds(self, work: Work, weights: str) -> tuple[float, str]:
        """The least time for this work, and what it is bound by: "memory" or "arithmetic"."""
        on_weights = self.float_ops_s if weights == "bf16" else self.int8_ops_s
        computing = work.on_weights / on_weights + work.on_context / self.float_ops_s
        reading = work.nbytes / self.read_bytes_s
        return (reading, "memory") if reading >= computing else (computing, "arithmetic")

    def better(self, other: "Limits") -> "Limits":
        """The best of two measurements on the same threads."""
        names = ("read_bytes_s", "read_bytes_s_median", "float_ops_s", "int8_ops_s")
        return replace(self, **{name: max(getattr(self, name), getattr(other, name)) for name in names})

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_limits(threads: int | None = None) -> Limits:
    """Measures for about a second; `threads` as for the native backend."""
    product = max(_product_rates())
    native = _native_limits(threads, _BLOCK)
    if native is not None:
        return native.better(replace(native, float_ops_s=product))
    read = _torch_reads(_BLOCK)
    return Limits("torch", torch.get_num_threads(), max(read), median(read), product, product)


def measure_again(limits: Limits, threads: int | None = None) -> Limits:
    """The better of `limits` and a shorter measurement now: others may have been busy here before."""
    native = _native_limits(threads, _BLOCK // 2)
    if native is not None:
        return limits.better(native)
    read = _torch_reads(_BLOCK // 2)
    return limits.better(replace(limits, read_bytes_s=max(read), read_bytes_s_median=median(read)))


def _native_limits(threads: int | None, block: int) -> Limits | None:
    """What the native kernels reach; None without them."""
    native = module()
    if native is None:
        return None
    runtime = Runtime(threads)
    floats = max(native.peak_float(runtime.pool, _PASSES))
    read = native.read_bandwidth(runtime.pool, _at_hand(block), _PASSES)
    return Limits(
        source=f"native {instruction_set()}",
        threads=runtime.threads,
        read_bytes_s=max(read),
        read_bytes_s_median=median(read),
        float_ops_s=floats,
        int8_ops_s=max(floats, *native.peak_int8(runtime.pool, _PASSES)),
    )


def _torch_reads(block: int) -> list[float]:
    numbers = torch.ones(_at_hand(block) // 4)
    return _rates(numbers.sum, numbers.nbytes)


def _product_rates() -> list[float]:
    """Operations per second of a large bfloat16 product."""
    a, b = (torch.randn(size, 2048, dtype=torch.bfloat16) for size in (512, 2048))
    return _rates(lambda: torch.nn.functional.linear(a, b), 2 * a.numel() * len(b))


def _rates(work: Callable[[], object], units: int) -> list[float]:
    """Units per second of each pass, after one that does not count."""
    work()
    rates = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        work()
        rates.append(units / (time.perf_counter() - began))
    return rates


def _at_hand(block: int) -> int:
    """Bytes to read: those of the block, or fewer where memory is short."""
    limit = tightest(memory_limits())
    return block if limit is None else min(block, max(limit.free_bytes // 4, 1 << 20))
