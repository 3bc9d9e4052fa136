"""Attention in which every query sees every key, and a two-layer perceptron."""

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from minicpm.config.vision import VisionTransformer


def attend_all(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v per head (arXiv:1706.03762, eq. 1): q [N, Q, H*d], k and v [N, T, H*d]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Perceptron(nn.Module):
    """fc2(gelu(fc1 x)) with biases; the GELU is the exact one, with the error function."""

    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tower.hidden, tower.intermediate)
        self.fc2 = nn.Linear(tower.intermediate, tower.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] to [..., D]."""
        return self.fc2(gelu(self.fc1(x)))
