"""Half-rotation of head vectors."""

import torch
from torch import Tensor

from minicpm.ops.rope.angles import Angles


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate pairs (i, i + d/2) of x [T, H, d] by the angle of each position, in float32; result like x."""
    cos, sin = angles.cos[:, None, :], angles.sin[:, None, :]
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
