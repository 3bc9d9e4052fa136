"""What a measurement takes of memory: said before, and looked up after."""

import sys
from pathlib import Path

from minicpm.bench.weights import Footprint
from minicpm.checkpoint.available import memory_limits, tightest
from minicpm.config import ModelConfig
from minicpm.config.holding import absorbed_bytes
from minicpm.config.kv import AUTO
from minicpm.config.memory import cache_bytes
from minicpm.errors import CapacityError

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_ASIDE = 256 << 20
"""Bytes for activations, logits and what a forward holds for a moment."""


def require_room(
    config: ModelConfig, footprint: Footprint, *, tokens: int, batch: int, kv: str = AUTO
) -> None:
    """Raise CapacityError, with the numbers, where so many tokens do not fit beside weights.

    Nothing is allocated.
    """
    limit = tightest(memory_limits())
    held = footprint.nbytes + absorbed_bytes(config, "bfloat16")
    past = batch * cache_bytes(config, tokens, "bfloat16", kv)
    if limit is None or held + past + _ASIDE <= limit.free_bytes:
        return
    raise CapacityError(
        f"Weights take {_gib(held)} and {batch} x {tokens:,} tokens of context {_gib(past)}, with "
        f"{_gib(_ASIDE)} to work in; {limit.name} leaves {_gib(limit.free_bytes)}, so nothing is measured. "
        "Use --layers, smaller weights, a shorter --context or a smaller --batch."
    )


def forget_peak() -> None:
    """Start the peak anew where the system can; elsewhere it stays that of the whole process."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        pass


def peak_bytes() -> int:
    """The most memory this process has held since `forget_peak`."""
    try:
        status = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        status = []
    for line in status:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 // 10 else f"{count / 2**20:.1f} MiB"
