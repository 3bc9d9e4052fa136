"""Says what memory a model takes before it is loaded, and refuses what does not fit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from minicpm.checkpoint.available import Limit, memory_limits, tightest
from minicpm.checkpoint.packed_source import Measured, PackedSource
from minicpm.config import BYTES, ModelConfig, memory
from minicpm.config.dtypes import BITS
from minicpm.config.holding import absorbed_bytes, held_bytes, rounded_bytes
from minicpm.config.kv import AUTO
from minicpm.errors import CapacityError

_REORDERING = 4
"""Bytes per weight of a matrix while its codes are put in another order."""


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
    kv: str = AUTO,
    scratch_bytes: int | None = None,
    limit: Limit | None = None,
) -> MemoryPlan:
    """The plan for weights as `dtype`, or held as `weights` says, and one sequence of `tokens` tokens.

    Its keys and values are in `dtype` too, or held as `kv` says.
    Without `scratch_bytes` the larger of a fused feed-forward and the embedding is assumed; without `limit`
    this process's tightest one is asked for.
    """
    return MemoryPlan(
        dtype=dtype,
        tokens=tokens,
        weight_bytes=held_bytes(config, dtype, weights),
        cache_bytes=memory.cache_bytes(config, tokens, dtype, kv),
        scratch_bytes=fusing_bytes(config, dtype) if scratch_bytes is None else scratch_bytes,
        limit=limit or tightest(memory_limits()),
        weights=weights,
    )


def fusing_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of the largest stack of gate and up that `prepare` builds while the separate ones still exist."""
    highest = max((layer.ffn.stacked for layer in config.layers), default=0)
    return highest * config.hidden * BYTES[dtype]


def codes_plan(
    plan: MemoryPlan,
    config: ModelConfig,
    packed: Mapping[str, PackedSource],
    rounded: Mapping[str, int] | None = None,
) -> MemoryPlan:
    """The plan when matrices, by the names of their weights, are held as they are in a checkpoint.

    `rounded` says in how many bits the plan has counted modules that were to be rounded.
    """
    if not packed:
        return plan
    item, bits = BYTES[plan.dtype], rounded or {}
    planned = sum(
        _planned(source, bits.get(name.removesuffix(".weight")), item) for name, source in packed.items()
    )
    held = sum(_codes_bytes(source, item) for source in packed.values())
    latent = 0 if plan.weights in BITS else absorbed_bytes(config, plan.dtype)
    largest = max(source.nbytes + _REORDERING * _weights(source) for source in packed.values())
    return replace(
        plan,
        weight_bytes=plan.weight_bytes - planned + held + latent,
        scratch_bytes=max(plan.scratch_bytes, largest),
        weights="codes" if plan.weights == "plain" else plan.weights,
    )


def _planned(source: PackedSource, bits: int | None, item: int) -> int:
    """What a plan has counted for a matrix."""
    rounded = None if bits is None else rounded_bytes(source.shape, bits)
    return _weights(source) * item if rounded is None else rounded


def _codes_bytes(source: PackedSource, item: int) -> int:
    return source.held_bytes(item) if isinstance(source, Measured) else source.nbytes


def _weights(source: PackedSource) -> int:
    return source.shape[0] * source.shape[1]


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
