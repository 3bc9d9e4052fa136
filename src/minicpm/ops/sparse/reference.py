"""InfLLM-V2 attention of one segment, slow and obvious: a loop over queries and heads."""

import math

import torch
from torch import Tensor

from minicpm.config import SparseConfig
from minicpm.config.sparse import chosen_blocks, local_blocks, visible_kernels
from minicpm.ops.sparse.scorer import Scorer


@torch.no_grad()
def compress(k: Tensor, sparse: SparseConfig) -> Tensor:
    """Means of all whole windows of keys, summed in float32: k [n, Hk, d] gives [J, Hk, d] like k.

    Row j is the mean of tokens j * stride .. j * stride + kernel_size - 1.
    """
    count = visible_kernels(len(k) - 1, sparse)
    starts = [j * sparse.kernel_stride for j in range(count)]
    rows = [k[start : start + sparse.kernel_size].float().mean(0).to(k.dtype) for start in starts]
    return torch.stack(rows) if rows else k.new_empty(0, *k.shape[1:])


@torch.no_grad()
def score_kernels(q: Tensor, compressed: Tensor, length: int, sparse: SparseConfig) -> Tensor:
    """What a group makes of every compressed key, [Hk, T, J] float32 (arXiv 2509.24663, equations 5 and 6).

    q [T, H, d] at the last T of `length` positions, compressed [J, Hk, d]. Each head's softmax over the
    kernels that end no later than the query, summed over the heads of the group; 0 for all later kernels.
    """
    count, heads, width = q.shape
    kernels, kv_heads, _ = compressed.shape
    group = heads // kv_heads
    scores = torch.zeros(kv_heads, count, kernels, device=q.device)
    for t in range(count):
        seen = min(visible_kernels(length - count + t, sparse), kernels)
        for h in range(heads):
            logits = compressed[:seen, h // group].float() @ q[t, h].float() / math.sqrt(width)
            scores[h // group, t, :seen] += logits.softmax(0)
    return scores


@torch.no_grad()
def score_blocks(scores: Tensor, blocks: int, sparse: SparseConfig) -> Tensor:
    """The largest score of the kernels that touch a block: [Hk, T, J] gives [Hk, T, blocks]; 0 for none."""
    pooled = scores.new_zeros(*scores.shape[:2], blocks)
    for b in range(blocks):
        first, last = b * sparse.block_size, (b + 1) * sparse.block_size
        for j in range(scores.shape[-1]):
            start = j * sparse.kernel_stride
            if start < last and start + sparse.kernel_size > first:
                pooled[:, :, b] = pooled[:, :, b].maximum(scores[:, :, j])
    return pooled


@torch.no_grad()
def choose(scores: Tensor, length: int, sparse: SparseConfig) -> Tensor:
    """The blocks each query attends to, bool [Hk, T, blocks], from block scores of that shape.

    The first `init_blocks` and the local ones always; then by score, an earlier block first where scores are
    equal; `chosen_blocks` in all, none that starts after the query.
    """
    kv_heads, count, blocks = scores.shape
    chosen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for t in range(count):
        own = (length - count + t) // sparse.block_size
        for g in range(kv_heads):
            rated = {b: scores[g, t, b].item() for b in range(min(own + 1, blocks))}
            forced = {b for b in rated if b < sparse.init_blocks or b > own - local_blocks(sparse)}
            rated |= dict.fromkeys(forced, math.inf)
            best = sorted((-score, b) for b, score in rated.items())[: chosen_blocks(sparse)]
            chosen[g, t, [b for _, b in best]] = True
    return chosen


@torch.no_grad()
def select(q: Tensor, compressed: Tensor, length: int, sparse: SparseConfig) -> Tensor:
    """The blocks each query attends to, bool [Hk, T, blocks], for q [T, H, d] and compressed [J, Hk, d]."""
    blocks = -(-length // sparse.block_size)
    kernel_scores = score_kernels(q, compressed, length, sparse)
    return choose(score_blocks(kernel_scores, blocks, sparse), length, sparse)


def attend_selected(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, sparse: SparseConfig) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the tokens of chosen blocks up to the query, softmax in float32.

    q [T, H, d] at the last T of n positions, k and v [n, Hk, d], chosen bool [Hk, T, blocks]. Result
    [T, H, d] like q; a query that has chosen nothing gives 0.
    """
    count, heads, width = q.shape
    length, kv_heads, _ = k.shape
    group = heads // kv_heads
    tokens = torch.arange(length, device=q.device)
    positions = torch.arange(length - count, length, device=q.device)
    allowed = chosen[:, :, tokens // sparse.block_size] & (tokens <= positions[:, None])  # [Hk, T, n]
    allowed = allowed.repeat_interleave(group, dim=0)
    k, v = (x.repeat_interleave(group, dim=1).float() for x in (k, v))
    scores = torch.einsum("thd,nhd->htn", q.float(), k) / math.sqrt(width)
    empty = ~allowed.any(-1, keepdim=True)
    weights = scores.masked_fill(~allowed & ~empty, -math.inf).softmax(-1).masked_fill(empty, 0)
    return torch.einsum("htn,nhd->thd", weights, v).to(q.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scorer: Scorer, sparse: SparseConfig, *, rows: Tensor | None = None
) -> Tensor:
    """Sparse attention of q [T, H, d] at the last T of n positions over k and v [n, Hk, d]; [T, H, d] like q.

    With `rows` [n] int64 k and v are larger, and position i lies in row rows[i]. The scorer's queries choose
    what q attends to. Gradients flow to q, k and v, none to the choice.
    """
    if rows is not None:
        k, v = k[rows], v[rows]
    return attend_selected(q, k, v, select(scorer.q, scorer.compressed, len(k), sparse), sparse)
