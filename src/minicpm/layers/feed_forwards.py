"""The module that owns the parameters of each kind of feed-forward."""

from typing import Protocol, cast

from torch import Tensor, nn

from minicpm.config import Dense, FATReLU, FeedForward, MoE
from minicpm.layers.experts import Experts
from minicpm.layers.mlp import MLP
from minicpm.layers.sparse_mlp import SparseMLP
from minicpm.ops.backend import TORCH, Backend


class FeedForwardModule(Protocol):
    """What a block and reports ask of a feed-forward."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] normalised; result [T, D]. A zero row, which is how a batch is padded, gives zero."""
        ...

    def inner(self, x: Tensor) -> Tensor:
        """What the down projections are given for x [T, D]: [T, I], with experts [T, K, I]."""
        ...

    def prepare(self, backend: Backend = TORCH) -> None:
        """Repack for inference."""
        ...


def feed_forward(hidden: int, config: FeedForward) -> nn.Module:
    """A `FeedForwardModule`."""
    match config:
        case Dense(act=FATReLU()):
            return SparseMLP(hidden, config)
        case Dense():
            return MLP(hidden, config)
        case MoE():
            return Experts(hidden, config)


def as_feed_forward(module: nn.Module) -> FeedForwardModule:
    """The same module, typed."""
    return cast(FeedForwardModule, module)
