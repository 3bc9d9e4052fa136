"""Rotary position embedding, described as data; `minicpm.ops.rope` computes it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DefaultRope:
    """angle = position * theta^(-2i/dim)."""

    theta: float
    dim: int


@dataclass(frozen=True, slots=True)
class LinearRope:
    """angle = (position / factor) * theta^(-2i/dim)."""

    theta: float
    dim: int
    factor: float


@dataclass(frozen=True, slots=True)
class DynamicNTKRope:
    """Default rope up to `original` positions, a rescaled base beyond.

    The published code rescales when a sequence grows past `original`, which leaves keys cached
    earlier rotated by the old base. Here the base follows from `length`, the context the model was
    loaded with, so that every way of feeding a sequence gives the same result.
    """

    theta: float
    dim: int
    factor: float
    original: int
    length: int

    @property
    def base(self) -> float:
        """theta * (factor * n / original - (factor - 1))^(dim / (dim - 2)) for n > original."""
        if self.length <= self.original:
            return self.theta
        ratio = self.factor * self.length / self.original - (self.factor - 1)
        return self.theta * math.pow(ratio, self.dim / (self.dim - 2))


@dataclass(frozen=True, slots=True)
class LongRope:
    """Per-frequency division by `factors`; cosine and sine are multiplied by `attention_scale`."""

    theta: float
    dim: int
    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    length: int
    attention_scale: float

    @property
    def factors(self) -> tuple[float, ...]:
        """The long list when the configured length exceeds the original one, else the short list."""
        return self.long if self.length > self.original else self.short


Rope = DefaultRope | LinearRope | DynamicNTKRope | LongRope


def long_rope_attention_scale(length: float, original: int) -> float:
    """m = sqrt(1 + ln(M/O) / ln(O)) for M = length > O = original, else 1 (LongRoPE, arXiv 2402.13753)."""
    if length <= original:
        return 1.0
    return math.sqrt(1 + math.log(length / original) / math.log(original))


def rope_words(rope: Rope) -> str:
    """The rotary embedding in a few words."""
    match rope:
        case DefaultRope():
            return f"theta {rope.theta:,.0f}"
        case LinearRope():
            return f"theta {rope.theta:,.0f}, linear, factor {rope.factor:g}"
        case DynamicNTKRope():
            scaling = f"dynamic NTK, factor {rope.factor:g} beyond {rope.original:,} tokens"
            return f"theta {rope.theta:,.0f}, {scaling}"
        case LongRope():
            return f"theta {rope.theta:,.0f}, longrope over {rope.original:,} tokens"
