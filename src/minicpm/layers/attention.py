"""Grouped-query attention with rotary embedding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.cache import TokenStore
from minicpm.config import GQA
from minicpm.layers.fused import fuse
from minicpm.layers.step import Step
from minicpm.ops.rows import pad_to


class Attention(nn.Module):
    """q_proj [H*d, D], k_proj and v_proj [Hk*d, D], o_proj [D, H*d]; gated also o_gate [H*d, D]."""

    def __init__(self, hidden: int, mixer: GQA, *, layer: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.layer = layer
        queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
        self.q_proj = nn.Linear(hidden, queries, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        if mixer.gated:
            self.o_gate = nn.Linear(hidden, queries, bias=False)
        self._fused: Tensor | None = None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """x [T, D] normalised; result [T, D]. Rows beyond the batch's tokens are padding and give zero."""
        width = self.mixer.head_dim
        q, k, v = (part[: step.tokens].unflatten(-1, (-1, width)) for part in self._project(x))
        mixed = pad_to(self.mix(q, k, v, step).flatten(1), len(x))
        if self.mixer.gated:
            mixed = mixed * torch.sigmoid(self.o_gate(x))
        return self.o_proj(mixed)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        """What the heads read for q [T, H, d], k and v [T, Hk, d], before the gate; [T, H, d]."""
        if self.mixer.rotary:
            q, k = step.ops.rotate(q, step.angles), step.ops.rotate(k, step.angles)
        return step.attend(self.layer, q, k, v)

    def new_store(self, pages: int, dtype: torch.dtype, device: torch.device) -> TokenStore:
        """An empty store of `pages` pages for this layer."""
        return TokenStore(pages, self.mixer.kv_heads, self.mixer.head_dim, dtype=dtype, device=device)

    def prepare(self) -> None:
        """Fuse the three input projections; inference only from here on."""
        self._fused = fuse((self.q_proj, self.k_proj, self.v_proj))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._fused is None:
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)
        widths = [self.q_proj.out_features, self.k_proj.out_features, self.v_proj.out_features]
        return linear(x, self._fused).split(widths, dim=-1)
