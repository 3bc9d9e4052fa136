"""The feed-forward of one row, neuron by neuron, slow and obvious."""

import torch
from torch import Tensor


def gated_sum(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """y = sum over all neurons i of (gate_i * (up_i . x)) * down_i, in ascending i.

    x [D], gate [I] after its activation, up [I, D], and down [I, D] with one neuron per row, all of one
    dtype; result [D]. Dot products and the sum are float32; each product gate_i * (up_i . x) is rounded to
    the dtype, as between the two matrix products of the dense form.
    """
    inner = gate * (up.float() * x.float()).sum(dim=-1).to(x.dtype)
    y = torch.zeros(len(x), dtype=torch.float32, device=x.device)
    for a, row in zip(inner.float(), down.float(), strict=True):
        y = y + a * row
    return y.to(x.dtype)
