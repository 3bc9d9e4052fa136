"""First values of weights that no checkpoint has filled yet."""

import torch
from torch import Tensor, nn

from minicpm.models.vision.positions import Grid, sincos_2d


def small_random(*shape: int) -> Tensor:
    """Normal values of standard deviation 0.02, cut at two deviations."""
    return nn.init.trunc_normal_(torch.empty(*shape), std=0.02, a=-0.04, b=0.04)


def fixed_positions(grid: Grid, width: int) -> Tensor:
    """Sine-cosine positions [h * w, D]; on the meta device only their shape.

    Arithmetic on meta tensors would import torch's compiler, for seconds.
    """
    table = torch.empty(grid.height * grid.width, width)
    return table if table.is_meta else table.copy_(sincos_2d(grid, width))
