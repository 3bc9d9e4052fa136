"""Grouped-query attention with rotary embedding."""

import torch
from torch import Tensor, nn

from minicpm.cache import PAGE_FORMATS, BlockedStore, PageFormat, TokenStore
from minicpm.config import GQA, InfLLM
from minicpm.config.kv import AUTO
from minicpm.errors import BadParameter
from minicpm.layers.fused import fuse, hold, project
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH, Backend
from minicpm.ops.linear import Weight
from minicpm.ops.rows import pad_to


class Attention(nn.Module):
    """q_proj [H*d, I], k_proj and v_proj [Hk*d, I], o_proj [D, H*d]; gated also o_gate [H*d, I].

    The input width I is the hidden width D unless `inputs` says otherwise.
    """

    def __init__(self, hidden: int, mixer: GQA, *, layer: int, inputs: int | None = None) -> None:
        super().__init__()
        inputs = hidden if inputs is None else inputs
        self.mixer = mixer
        self.layer = layer
        queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
        self.q_proj = nn.Linear(inputs, queries, bias=False)
        self.k_proj = nn.Linear(inputs, keys, bias=False)
        self.v_proj = nn.Linear(inputs, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        if mixer.gated:
            self.o_gate = nn.Linear(inputs, queries, bias=False)
        self.fused: Weight | None = None
        self.native_pages = False  # whether its store is laid out for the native kernels

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """x [T, I] normalised; result [T, D]. Rows beyond the batch's tokens are padding and give zero."""
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

    @property
    def infllm(self) -> InfLLM | None:
        """How it chooses blocks, if it does."""
        return None

    def new_store(
        self, pages: int, dtype: torch.dtype, device: torch.device, kv: str = AUTO
    ) -> TokenStore | BlockedStore:
        """An empty store of `pages` pages for this layer, `kv` as for `Decoder.new_cache`."""
        heads, width, held = self.mixer.kv_heads, self.mixer.head_dim, self._page_format(dtype, kv)
        if held is None:
            return TokenStore(pages, heads, width, dtype=dtype, device=device)
        return BlockedStore(pages, heads, width, held=held, device=device)

    def prepare(self, backend: Backend = TORCH) -> None:
        """Fuse the three input projections; inference only from here on."""
        self.fused = fuse(self, ("q_proj", "k_proj", "v_proj"), backend)
        hold(self, ("o_proj", "o_gate") if self.mixer.gated else ("o_proj",), backend)

    def _page_format(self, dtype: torch.dtype, kv: str) -> PageFormat | None:
        """How pages of the kernels hold its keys and values; None where a store has none of these."""
        if self.native_pages and (dtype == torch.bfloat16 or kv != AUTO):
            return PAGE_FORMATS[kv]
        if kv != AUTO:
            raise BadParameter(
                f"Keys and values of layer {self.layer} cannot be held in {kv}: the native kernels do not do "
                "all of its attention, for its projections are wrapped, watched or in a format that they do "
                "not know. Leave kv at auto."
            )
        return None

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        return project(x, (self.q_proj, self.k_proj, self.v_proj), self.fused)
