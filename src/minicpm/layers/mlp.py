"""The gated feed-forward."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import silu

from minicpm.config import Activation, Dense, FATReLU, SiLU
from minicpm.layers.fused import fuse, hold, project
from minicpm.ops.activations import fatrelu
from minicpm.ops.backend import TORCH, Backend
from minicpm.ops.linear import Weight


class MLP(nn.Module):
    """gate_proj and up_proj [I, D], down_proj [D, I]."""

    def __init__(self, hidden: int, ffn: Dense) -> None:
        super().__init__()
        self.config = ffn
        self.act = activation(ffn.act)
        self.gate_proj = nn.Linear(hidden, ffn.intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, ffn.intermediate, bias=False)
        self.down_proj = nn.Linear(ffn.intermediate, hidden, bias=False)
        self.fused: Weight | None = None

    def forward(self, x: Tensor) -> Tensor:
        """down(act(gate x) * up x) for x [T, D]."""
        return self.down_proj(self.inner(x))

    def inner(self, x: Tensor) -> Tensor:
        """act(gate x) * up x for x [T, D]; [T, I]."""
        gate, up = project(x, (self.gate_proj, self.up_proj), self.fused)
        return self.act(gate) * up

    def prepare(self, backend: Backend = TORCH) -> None:
        """Fuse the two input projections; inference only from here on."""
        self.fused = fuse(self, ("gate_proj", "up_proj"), backend, gated=True)
        hold(self, ("down_proj",), backend)


def activation(config: Activation) -> Callable[[Tensor], Tensor]:
    """The function of that description, elementwise."""
    match config:
        case SiLU():
            return silu
        case FATReLU():
            return partial(fatrelu, threshold=config.threshold)
