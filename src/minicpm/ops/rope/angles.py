"""Cosines and sines of given positions under any rope of the family."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.config import DefaultRope, DynamicNTKRope, LinearRope, LongRope, Rope


class Angles(NamedTuple):
    """cos and sin of each position, float32 [T, dim / 2]."""

    cos: Tensor
    sin: Tensor


def rope_angles(rope: Rope, positions: Tensor) -> Angles:
    """Angles for integer `positions` [T], computed in float32."""
    t = positions.to(torch.float32)
    match rope:
        case DefaultRope():
            return _angles(t, _inverse_frequencies(rope.theta, rope.dim, t.device))
        case LinearRope():
            return _angles(t / rope.factor, _inverse_frequencies(rope.theta, rope.dim, t.device))
        case DynamicNTKRope():
            return _angles(t, _inverse_frequencies(rope.base, rope.dim, t.device))
        case LongRope():
            return _long_angles(rope, t)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # or training could not use what an inference has made
def _inverse_frequencies(theta: float, dim: int, device: torch.device) -> Tensor:
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return 1.0 / theta**exponents


def _angles(t: Tensor, inverse: Tensor, scale: float = 1.0) -> Angles:
    angle = torch.outer(t, inverse)
    return Angles(angle.cos() * scale, angle.sin() * scale)


def _long_angles(rope: LongRope, t: Tensor) -> Angles:
    # The order (t * (1 / factor)) * inverse is the published one and decides the last bit.
    inverse = _inverse_frequencies(rope.theta, rope.dim, t.device)
    angle = torch.outer(t, _inverse_factors(rope.factors, t.device)) * inverse
    return Angles(angle.cos() * rope.attention_scale, angle.sin() * rope.attention_scale)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _inverse_factors(factors: tuple[float, ...], device: torch.device) -> Tensor:
    return 1.0 / torch.tensor(factors, dtype=torch.float32, device=device)
