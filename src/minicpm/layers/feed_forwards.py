"""The module that owns the parameters of each kind of feed-forward."""

from torch import nn

from minicpm.config import Dense, FeedForward, SiLU
from minicpm.layers.mlp import MLP


def feed_forward(hidden: int, config: FeedForward) -> nn.Module:
    """A module from [T, D] to [T, D] with `prepare`."""
    match config:
        case Dense(act=SiLU()):
            return MLP(hidden, config)
    raise NotImplementedError(f"no module for {config}")
