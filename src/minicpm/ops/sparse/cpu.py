"""InfLLM-V2 attention in plain torch, over a bounded number of queries at a time."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils.checkpoint import checkpoint

from minicpm.config import SparseConfig
from minicpm.config.sparse import first_choice
from minicpm.ops.attention import cpu as dense
from minicpm.ops.sparse.choice import compress, select
from minicpm.ops.sparse.scorer import Scorer

__all__ = ["attend", "attend_selected", "compress", "select"]

# One block: queries this near to each other share their local blocks and much of the rest.
_QUERIES = 64


def attend(q: Tensor, k: Tensor, v: Tensor, scorer: Scorer, sparse: SparseConfig) -> Tensor:
    """As the reference: q [T, H, d], k and v [n, Hk, d], result [T, H, d]."""
    start = len(k) - len(q)
    # A query with no more blocks behind it than it may choose attends to all of them.
    count = min(max(first_choice(sparse) - start, 0), len(q))
    parts = [dense.attend(q[:count], k[: start + count], v[: start + count])] if count else []
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
    kv_heads = k.shape[1]
    groups = q.unflatten(1, (kv_heads, -1))
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    outs = []
    for g in range(kv_heads):
        work = (groups[:, g], k[:, g], v[:, g], chosen[g], sparse.block_size)
        if trains:
            outs.append(checkpoint(_attend_group, *work, use_reentrant=False, preserve_rng_state=False))
        else:
            outs.append(_attend_group(*work))
    return torch.cat(outs, dim=1)


def _attend_group(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
    """One key/value head: q [T, G, d], k and v [n, d], chosen [T, blocks]; result [T, G, d]."""
    used = chosen.any(0)
    used[0] |= ~used.any()  # nothing to attend to is masked below, so that gradients are 0 and not missing
    tokens = (used.nonzero() * block + torch.arange(block, device=q.device)).flatten()
    tokens = tokens[tokens < len(k)]
    positions = torch.arange(len(k) - len(q), len(k), device=q.device)
    allowed = chosen[:, tokens // block] & (tokens <= positions[:, None])
    empty = ~allowed.any(-1, keepdim=True)
    keys, values = k.index_select(0, tokens), v.index_select(0, tokens)
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
