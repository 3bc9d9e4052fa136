"""The gated feed-forward."""

from torch import Tensor, nn
from torch.nn.functional import silu

from minicpm.config import Dense
from minicpm.layers.fused import fuse, project


class MLP(nn.Module):
    """gate_proj and up_proj [I, D], down_proj [D, I]."""

    def __init__(self, hidden: int, ffn: Dense) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, ffn.intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, ffn.intermediate, bias=False)
        self.down_proj = nn.Linear(ffn.intermediate, hidden, bias=False)
        self._fused: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """down(silu(gate x) * up x) for x [T, D]."""
        gate, up = project(x, (self.gate_proj, self.up_proj), self._fused)
        return self.down_proj(silu(gate) * up)

    def prepare(self) -> None:
        """Fuse the two input projections; inference only from here on."""
        self._fused = fuse((self.gate_proj, self.up_proj))
