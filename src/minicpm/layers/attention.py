"""Grouped-query attention with rotary embedding."""

from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.config import GQA
from minicpm.layers.fused import fuse
from minicpm.layers.step import Step
from minicpm.ops.rows import pad_to


class Attention(nn.Module):
    """q_proj [H*d, D], k_proj and v_proj [Hk*d, D], o_proj [D, H*d]."""

    def __init__(self, hidden: int, mixer: GQA, *, layer: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.layer = layer
        queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
        self.q_proj = nn.Linear(hidden, queries, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        self._fused: Tensor | None = None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """x [T, D] normalised; result [T, D]. Rows beyond the batch's tokens are padding and give zero."""
        width = self.mixer.head_dim
        q, k, v = (part[: step.tokens].unflatten(-1, (-1, width)) for part in self._project(x))
        q, k = step.ops.rotate(q, step.angles), step.ops.rotate(k, step.angles)
        mixed = step.attend(self.layer, q, k, v).flatten(1)
        return self.o_proj(pad_to(mixed, len(x)))

    def prepare(self) -> None:
        """Fuse the three input projections; inference only from here on."""
        self._fused = fuse((self.q_proj, self.k_proj, self.v_proj))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._fused is None:
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)
        widths = [self.q_proj.out_features, self.k_proj.out_features, self.v_proj.out_features]
        return linear(x, self._fused).split(widths, dim=-1)
