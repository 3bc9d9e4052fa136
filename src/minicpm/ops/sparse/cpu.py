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


def attend(
    q: Tensor, k: Tensor, v: Tensor, scorer: Scorer, sparse: SparseConfig, *, rows: Tensor | None = None
) -> Tensor:
    """As the reference: q [T, H, d], k and v [n, Hk, d] or larger with `rows` [n], result [T, H, d].

    Keys and values may be of another dtype than q; what is read of them is cast.
    """
    rows = torch.arange(len(k), device=k.device) if rows is None else rows
    start = len(rows) - len(q)
    # A query with no more blocks behind it than it may choose attends to all of them.
    count = min(max(first_choice(sparse) - start, 0), len(q))
    parts = []
    if count:
        seen = rows[: start + count]
        parts.append(dense.attend(q[:count], *(x.index_select(0, seen).to(q.dtype) for x in (k, v))))
    for first in range(count, len(q), _QUERIES):
        last = min(first + _QUERIES, len(q))
        chosen = select(scorer.q[first:last], scorer.compressed, start + last, sparse)
        choice = _Choice(chosen, sparse.block_size, rows[: start + last])
        parts.append(_attend_chosen(q[first:last], k, v, choice))
    return torch.cat(parts)


def attend_selected(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, sparse: SparseConfig) -> Tensor:
    """As the reference: q [T, H, d], k and v [n, Hk, d], chosen bool [Hk, T, blocks]; result [T, H, d]."""
    rows = torch.arange(len(k), device=k.device)
    return _attend_chosen(q, k, v, _Choice(chosen, sparse.block_size, rows))


class _Choice(NamedTuple):
    """The blocks of each query, bool [.., T, blocks], their size in tokens, the row of each position [n]."""

    blocks: Tensor
    size: int
    rows: Tensor


def _attend_chosen(q: Tensor, k: Tensor, v: Tensor, choice: _Choice) -> Tensor:
    """Gathers only blocks that one of the queries has chosen; when training, once more on the way back."""
    groups = q.unflatten(1, (k.shape[1], -1))
    heads = zip(groups.unbind(1), k.unbind(1), v.unbind(1), choice.blocks, strict=True)
    return torch.cat([_Gathered.apply(*qkv, choice._replace(blocks=chosen)) for *qkv, chosen in heads], dim=1)


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
    """One key/value head: q [T, G, d], k and v [rows, d]; result [T, G, d]."""
    chosen, block, rows = choice
    used = chosen.any(0)
    used[0] |= ~used.any()  # nothing to attend to is masked below, so that gradients are 0 and not missing
    tokens = (used.nonzero() * block + torch.arange(block, device=q.device)).flatten()
    tokens = tokens[tokens < len(rows)]
    positions = torch.arange(len(rows) - len(q), len(rows), device=q.device)
    allowed = chosen[:, tokens // block] & (tokens <= positions[:, None])
    empty = ~allowed.any(-1, keepdim=True)
    keys, values = (x.index_select(0, rows[tokens]).to(q.dtype) for x in (k, v))
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
