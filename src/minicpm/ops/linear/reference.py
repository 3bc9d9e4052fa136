"""A product with a plain or a packed matrix, slow and obvious."""

from torch import Tensor, nn

from minicpm.ops.quant_tensor import Weight, decode


def linear(x: Tensor, weight: Weight) -> Tensor:
    """x W^T for x [..., I] and W [O, I]; [..., O]. A packed matrix is decoded first."""
    return nn.functional.linear(x, weight if isinstance(weight, Tensor) else decode(weight))
