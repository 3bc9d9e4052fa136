"""The gated feed-forwards' activation functions."""

import torch
from torch import Tensor


def fatrelu(x: Tensor, threshold: float) -> Tensor:
    """x where x > threshold, else 0, compared in float32 (ProSparse, arXiv 2402.13516, section 4; strict).

    The value is not shifted. Shape and dtype like x.
    """
    return torch.where(x.float() > threshold, x, 0)
