"""A feed-forward of several experts, of which each token uses a few (mixture of experts)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from minicpm.config import MoE
from minicpm.layers.fused import hold, stack
from minicpm.ops.backend import TORCH, Backend
from minicpm.ops.linear import Weight
from minicpm.ops.rows import pad_rows, row_multiple


class Expert(nn.Module):
    """w1 (gate) and w3 (up) [I, D], w2 (down) [D, I]."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden, intermediate, bias=False)
        self.w2 = nn.Linear(intermediate, hidden, bias=False)
        self.w3 = nn.Linear(hidden, intermediate, bias=False)

    def inner(self, x: Tensor) -> Tensor:
        """silu(w1 x) * w3 x for x [n, D]; [n, I]."""
        return silu(self.w1(x)) * self.w3(x)


class Routes(NamedTuple):
    """For each token its K experts [T, K] int64, the most probable first, and their shares [T, K] float32."""

    experts: Tensor
    shares: Tensor


class Experts(nn.Module):
    """The router `gate` [E, D] and `experts`; y = sum of share_k * expert_k(x) over a token's K experts.

    Tokens are grouped by expert, so an expert's weights are read once, and not at all when nobody chose it.
    A token's result does not depend on its company.
    """

    def __init__(self, hidden: int, ffn: MoE) -> None:
        super().__init__()
        self.chosen = ffn.chosen
        self.gate = nn.Linear(hidden, ffn.experts, bias=False)
        self.experts = nn.ModuleList(Expert(hidden, ffn.intermediate) for _ in range(ffn.experts))
        self._inputs: Tensor | None = None  # all w1 and w3, [E, 2I, D]
        self._outputs: Tensor | None = None  # all w2, [E, D, I]

    def forward(self, x: Tensor) -> Tensor:
        """x [T, D]; result [T, D], summed in float32."""
        live, routes = self._live(x)
        outs = self._by_token(x[live], routes.experts, self._output)
        mixed = (outs.float() * routes.shares[..., None]).sum(dim=1).to(x.dtype)
        return torch.zeros_like(x).index_copy(0, live, mixed)

    def inner(self, x: Tensor) -> Tensor:
        """silu(w1 x) * w3 x of the experts that each row of x [T, D] chose: [T, K, I]."""
        live, routes = self._live(x)
        inner = self._by_token(x[live], routes.experts, self._inner)
        return inner.new_zeros(len(x), *inner.shape[1:]).index_copy(0, live, inner)

    def route(self, x: Tensor) -> Routes:
        """The K most probable experts of each row of x [T, D], their probabilities rescaled to sum to one.

        Probabilities are a softmax over all experts in float32; equal ones go to the lower expert.
        """
        probabilities = self.gate(x).float().softmax(dim=-1)
        ranked = probabilities.sort(dim=-1, descending=True, stable=True)
        shares = ranked.values[:, : self.chosen]
        return Routes(ranked.indices[:, : self.chosen], shares / shares.sum(dim=-1, keepdim=True))

    def prepare(self, backend: Backend = TORCH) -> None:
        """Stack the experts; inference only from here on. Packed ones stay separate."""
        if backend.runtime is not None:
            for expert in self.experts:
                hold(expert, ("w1", "w2", "w3"), backend)
        if not all(type(projection) is nn.Linear for projection in self.experts[0].children()):
            return
        inputs = stack([projection for expert in self.experts for projection in (expert.w1, expert.w3)])
        outputs = stack([expert.w2 for expert in self.experts])
        self._inputs, self._outputs = self._by_expert(inputs), self._by_expert(outputs)

    def _by_expert(self, stacked: Weight) -> Tensor | None:
        return stacked.unflatten(0, (len(self.experts), -1)) if isinstance(stacked, Tensor) else None

    def _live(self, x: Tensor) -> tuple[Tensor, Routes]:
        """The rows of x that are not zero, and their routes.

        Experts have no bias: a zero row, which is how a batch is padded, gives zero and needs none of them.
        """
        live = x.any(dim=-1).nonzero()[:, 0]
        routes = self.route(x)
        return live, Routes(routes.experts[live], routes.shares[live])

    def _by_token(self, x: Tensor, experts: Tensor, apply: Callable[[int, Tensor], Tensor]) -> Tensor:
        """apply(j, rows) once for every chosen expert j; [n, k] of the result is by expert experts[n, k]."""
        count, chosen = experts.shape
        by_expert = experts.flatten().argsort(stable=True)
        rows = x[by_expert // chosen].split(experts.flatten().bincount(minlength=len(self.experts)).tolist())
        used = [(j, part) for j, part in enumerate(rows) if len(part)] or [(0, x)]
        multiple = row_multiple(x.dtype, x.device)
        outs = torch.cat([apply(j, pad_rows(part, multiple))[: len(part)] for j, part in used])
        return outs[by_expert.argsort()].unflatten(0, (count, chosen))

    def _inner(self, j: int, x: Tensor) -> Tensor:
        """silu(w1 x) * w3 x of expert j for x [n, D]; [n, I]."""
        if self._inputs is None:
            return self.experts[j].inner(x)
        gate, up = linear(x, self._inputs[j]).chunk(2, dim=-1)
        return silu(gate) * up

    def _output(self, j: int, x: Tensor) -> Tensor:
        """Expert j for x [n, D]; [n, D]."""
        inner = self._inner(j, x)
        return self.experts[j].w2(inner) if self._outputs is None else linear(inner, self._outputs[j])
