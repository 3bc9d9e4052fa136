"""A gated feed-forward most of whose neurons are exactly zero, and which can leave those out."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.layers.mlp import MLP
from minicpm.ops.sparse_ffn import gated_sum


class SparseMLP(MLP):
    """An MLP whose activation gives exact zeros; by itself it computes as densely as any."""

    _skip_up_to = 0

    def why_not_skip(self) -> str | None:
        """Why no neurons can be left out; None when some can."""
        return None if self._plain() else "its weights are packed or have adapters"

    @torch.no_grad()
    def skip_inactive(self, rows: int) -> None:
        """From here on, leave inactive neurons out of forwards of up to `rows` rows; inference only.

        Those rows are summed in another order than those of larger forwards, and may differ from them by
        rounding. Down's weight is kept with one neuron per row; `state_dict` does not show it. `why_not_skip`
        must know no reason.
        """
        assert self._plain(), "why_not_skip was not asked"
        self._skip_up_to = rows
        by_neuron = self.down_proj.weight.t().contiguous()
        self.down_proj.weight = nn.Parameter(by_neuron.t(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """As of an MLP."""
        if not self._skip_up_to or not self._plain():
            return super().forward(x)
        live = x.any(dim=-1).nonzero()[:, 0]  # zero rows pad a batch, and give zero
        if len(live) > self._skip_up_to:
            return super().forward(x)
        y = torch.zeros_like(x)
        for row in live.tolist():
            y[row] = self._one(x[row])
        return y

    def _one(self, x: Tensor) -> Tensor:
        gate = self.act(linear(x, self.gate_proj.weight))
        return gated_sum(x, gate, self.up_proj.weight, self.down_proj.weight.t())

    def _plain(self) -> bool:
        """False when a projection does more than its weight says, as with adapters."""
        return all(type(part) is nn.Linear for part in (self.gate_proj, self.up_proj, self.down_proj))
