"""Makes one vector of the hidden states of each segment."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minicpm.cache import Segment
from minicpm.config import FirstToken, LastToken, Pooling, WeightedMean


def pool(pooling: Pooling, hidden: Tensor, segments: Sequence[Segment]) -> list[Tensor]:
    """One vector [D] float32 per segment of the hidden states [T, D] of all segments in order.

    Every segment is pooled by itself, so that its vector has the same bits whatever shares the batch.
    """
    parts = hidden.float().split([segment.count for segment in segments])
    return [_pooled(pooling, part) for part in parts]


def _pooled(pooling: Pooling, hidden: Tensor) -> Tensor:
    match pooling:
        case WeightedMean():
            return weighted_mean(hidden)
        case FirstToken():
            return hidden[0]
        case LastToken():
            return hidden[-1]


def weighted_mean(hidden: Tensor) -> Tensor:
    """sum_j j h_j / sum_j j, j = 1 .. n, for the hidden states [n, D] of one text; [D] (arXiv 2202.08904)."""
    weights = torch.arange(1, len(hidden) + 1, device=hidden.device, dtype=hidden.dtype)
    return (hidden * weights[:, None]).sum(dim=0) / weights.sum()
