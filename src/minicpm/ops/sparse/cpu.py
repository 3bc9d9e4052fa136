"""InfLLM-V2 attention in plain torch, over a bounded number of queries at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minicpm.config import SparseConfig
from minicpm.config.sparse import first_choice
from minicpm.ops.attention import cpu as dense
from minicpm.ops.sparse.choice import compress, select
from minicpm.ops.sparse.scorer import Scorer

__all__ = ["attend", "attend_selected", "compress", "select"]

# One block: queries this near to each other share their local blocks and much of the rest.
_QUERIES = 64


def attend(q: Tensor, k: Tensor, v: Tensor, scorer: Scorer, sparse: SparseConfig) -> Tensor:
    """As the reference: q [T, H, d], k and v [n, Hk, d], result [T, H, d].

    Keys and values may be of another dtype than q; what is read of them is cast.
    """
    start = len(k) - len(q)
    # A query with no more blocks behind it than it may choose attends to all of them.
    count = min(max(first_choice(sparse) - start, 0), len(q))
    parts = []
    if count:
        parts.append(dense.attend(q[:count], *(x[: start + count].to(q.dtype) for x in (k, v))))
    for first in range(count, len(q), _QUERIES):
        last = min(first + _QUERIES, len(q))
        end = start + last
        chosen = select(scorer.q[first:last], scorer.compressed, end, sparse)
        parts.append(attend_selected(q[first:last], k[:end], v[:end], chosen, sparse))
    return torch.cat(parts)


def attend_selected(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, sparse: SparseConfig) -> Tensor:
    """As the reference: q [T, H, d], k and v [n, Hk, d], chosen bool [Hk, T, blocks]; result [T, H, d].

    Only blocks that one of the queries has chosen are gathered. For training they are gathered again on the
    way back instead of being kept.
    """
    groups = q.unflatten(1, (k.shape[1], -1))
    heads = zip(groups.unbind(1), k.unbind(1), v.unbind(1), chosen, strict=True)
    return torch.cat(
        [_Gathered.apply(q, k, v, _Choice(blocks, sparse.block_size)) for q, k, v, blocks in heads], dim=1
    )


class _Choice(NamedTuple):
    """The blocks of each query, bool [T, blocks], and their size in tokens."""

    blocks: Tensor
    size: int


class _Gathered(torch.autograd.Function):
    """`_attend_group`, computed once more on the way back."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, choice: _Choice) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.choice = choice
        return _attend_group(q, k, v, choice)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            out = _attend_group(*leaves, ctx.choice)
        return (*torch.autograd.grad(out, leaves, grad), None)


def _attend_group(q: Tensor, k: Tensor, v: Tensor, choice: _Choice) -> Tensor:
    """One key/value head: q [T, G, d], k and v [n, d]; result [T, G, d]."""
    chosen, block = choice
    used = chosen.any(0)
    used[0] |= ~used.any()  # nothing to attend to is masked below, so that gradients are 0 and not missing
    tokens = (used.nonzero() * block + torch.arange(block, device=q.device)).flatten()
    tokens = tokens[tokens < len(k)]
    positions = torch.arange(len(k) - len(q), len(k), device=q.device)
    allowed = chosen[:, tokens // block] & (tokens <= positions[:, None])
    empty = ~allowed.any(-1, keepdim=True)
    keys, values = (x.index_select(0, tokens).to(q.dtype) for x in (k, v))
    if len(q) == 1:
        out = dense.attend(q, keys[:, None], values[:, None])
    else:
        out = _masked(q, keys, values, allowed | empty)
    return out.masked_fill(empty[:, None], 0)


def _masked(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """q [T, G, d], k and v [n, d], allowed [T, n]; result [T, G, d]."""
    group = q.shape[1]
    k, v = (x.expand(1, group, -1, -1) for x in (k, v))
    return sdpa(q.transpose(0, 1)[None], k, v, attn_mask=allowed)[0].transpose(0, 1)
