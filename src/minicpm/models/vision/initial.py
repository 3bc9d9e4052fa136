"""First values of weights that no checkpoint has filled yet."""

import torch
from torch import Tensor, nn


def small_random(*shape: int) -> Tensor:
    """Normal values of standard deviation 0.02, cut at two deviations."""
    return nn.init.trunc_normal_(torch.empty(*shape), std=0.02, a=-0.04, b=0.04)
