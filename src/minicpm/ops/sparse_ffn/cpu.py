"""The feed-forward of one row that reads the weights of active neurons only."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def gated_sum(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """As the reference, and the same bits as with every neuron: a neuron whose gate is 0 adds exactly 0.

    That holds because no sum here depends on how many neurons there are: each dot product is summed by
    itself, and the result is summed one neuron after the other. A matrix product promises neither. Where the
    processor multiplies and adds with one rounding, so does this, and the reference does not.
    """
    active = gate.nonzero()[:, 0]
    inner = gate[active] * (up[active].float() * x.float()).sum(dim=-1).to(x.dtype)
    start = torch.zeros(1, dtype=torch.int64, device=x.device)
    return embedding_bag(active, down, start, mode="sum", per_sample_weights=inner)[0]
