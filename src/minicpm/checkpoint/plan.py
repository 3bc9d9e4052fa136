"""Says what memory a model takes before it is loaded, and refuses what does not fit."""

from dataclasses import dataclass

from minicpm.checkpoint.available import Limit, memory_limits, tightest
from minicpm.config import BYTES, ModelConfig, memory
from minicpm.config.holding import held_bytes
from minicpm.errors import CapacityError


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that loading and then one sequence of `tokens` tokens take, beside what may be had.

    `scratch_bytes` is what loading needs for a moment on top of the weights; the cache comes after, so the
    larger of the two counts. `limit` is None where the system does not tell.
    """

    dtype: str
    tokens: int
    weight_bytes: int
    cache_bytes: int
    scratch_bytes: int
    limit: Limit | None
    weights: str = "plain"

    @property
    def held_as(self) -> str:
        """What weights are, in a word."""
        return self.dtype if self.weights == "plain" else self.weights

    @property
    def needed_bytes(self) -> int:
        """The estimated peak."""
        return self.weight_bytes + max(self.cache_bytes, self.scratch_bytes)

    @property
    def fits(self) -> bool:
        """True when the peak is within the limit, or when no limit is known."""
        return self.limit is None or self.needed_bytes <= self.limit.free_bytes


def plan_memory(
    config: ModelConfig,
    dtype: str,
    tokens: int,
    *,
    weights: str = "plain",
    scratch_bytes: int | None = None,
    limit: Limit | None = None,
) -> MemoryPlan:
    """The plan for weights as `dtype`, or held as `weights` says, and one sequence of `tokens` tokens.

    Without `scratch_bytes` the larger of a fused feed-forward and the embedding is assumed; without `limit`
    this process's tightest one is asked for.
    """
    return MemoryPlan(
        dtype=dtype,
        tokens=tokens,
        weight_bytes=held_bytes(config, dtype, weights),
        cache_bytes=memory.cache_bytes(config, tokens, dtype),
        scratch_bytes=fusing_bytes(config, dtype) if scratch_bytes is None else scratch_bytes,
        limit=limit or tightest(memory_limits()),
        weights=weights,
    )


def fusing_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of the largest stack of gate and up that `prepare` builds while the separate ones still exist."""
    highest = max((layer.ffn.stacked for layer in config.layers), default=0)
    return highest * config.hidden * BYTES[dtype]


def require_fit(plan: MemoryPlan) -> None:
    """Raise CapacityError, with the numbers, for a plan that does not fit."""
    if plan.fits:
        return
    assert plan.limit is not None
    raise CapacityError(
        f"This model needs about {_gib(plan.needed_bytes)}: {_gib(plan.weight_bytes)} for weights as "
        f"{plan.held_as} and {_gib(plan.cache_bytes)} for the cache of {plan.tokens} tokens (loading takes "
        f"{_gib(plan.scratch_bytes)} on top of the weights for a moment). "
        f"{plan.limit.name[0].upper()}{plan.limit.name[1:]} leaves {_gib(plan.limit.free_bytes)}, so it is "
        "not loaded. Use a smaller model, a shorter context, or fewer bits (int8 or int4 weights)."
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 // 10 else f"{count / 2**20:.1f} MiB"
