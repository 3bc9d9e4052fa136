"""Which blocks queries attend to, as the reference chooses them, without loops.

The choice does not depend on how many queries and keys come at once: all that could decide between close
scores is summed in an order that the shapes do not change, or in float64.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from minicpm.config import SparseConfig
from minicpm.config.sparse import chosen_blocks, local_blocks, visible_kernels
from minicpm.ops.rows import pad_rows, row_multiple

# Float32 products on a CPU sum in another order when one side has fewer rows than this.
_FEWEST_KERNELS = 16


@torch.no_grad()
def compress(k: Tensor, sparse: SparseConfig) -> Tensor:
    """As the reference: k [n, Hk, d] gives [J, Hk, d]."""
    if len(k) < sparse.kernel_size:
        return k.new_empty(0, *k.shape[1:])
    windows = k.unfold(0, sparse.kernel_size, sparse.kernel_stride)
    return windows.sum(-1, dtype=_wide(k.device)).div_(sparse.kernel_size).to(k.dtype)


@torch.no_grad()
def select(q: Tensor, compressed: Tensor, length: int, sparse: SparseConfig) -> Tensor:
    """As the reference: bool [Hk, T, blocks] for q [T, H, d] at the last T of `length` positions."""
    blocks = -(-length // sparse.block_size)
    kernel_scores = score_kernels(q, compressed, length, sparse)
    return choose(score_blocks(kernel_scores, blocks, sparse), length, sparse)


@torch.no_grad()
def score_kernels(q: Tensor, compressed: Tensor, length: int, sparse: SparseConfig) -> Tensor:
    """As the reference, but only the kernels that the last query sees: [Hk, T, at most J] float32."""
    count, kv_heads = len(q), compressed.shape[1]
    seen = min(visible_kernels(length - 1, sparse), len(compressed))
    if seen == 0:
        return q.new_zeros(kv_heads, count, 0, dtype=torch.float32)
    logits = _logits(q, compressed[:seen])
    ends = torch.arange(seen, device=q.device) * sparse.kernel_stride + sparse.kernel_size - 1
    future = ends > _positions(count, length, q.device)[:, None]
    logits.masked_fill_(future, -math.inf)
    peak = logits.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    weights = logits.sub_(peak).exp_()
    total = weights.sum(-1, keepdim=True, dtype=_wide(q.device)).clamp_min(1)  # 0 where no kernel is seen
    return weights.div_(total.float()).sum(1, dtype=_wide(q.device)).float()


@torch.no_grad()
def score_blocks(scores: Tensor, blocks: int, sparse: SparseConfig) -> Tensor:
    """As the reference: [Hk, T, J] gives [Hk, T, blocks]."""
    stride = sparse.block_size // sparse.kernel_stride
    before = sparse.kernel_size // sparse.kernel_stride - 1  # kernels that reach into a block from before it
    width = stride + before
    after = (blocks - 1) * stride + width - before - scores.shape[-1]
    return max_pool1d(pad(scores, (before, after)), width, stride)  # no score is below 0


@torch.no_grad()
def choose(scores: Tensor, length: int, sparse: SparseConfig) -> Tensor:
    """As the reference: bool [Hk, T, blocks] from block scores."""
    count, blocks = scores.shape[1:]
    own = _positions(count, length, scores.device)[:, None] // sparse.block_size
    block = torch.arange(blocks, device=scores.device)
    forced, future = (block < sparse.init_blocks) | (block > own - local_blocks(sparse)), block > own
    rated = scores.masked_fill(forced, math.inf).masked_fill(future, -math.inf)
    budget = min(chosen_blocks(sparse), blocks)
    least = rated.topk(budget, sorted=False).values.amin(-1, keepdim=True)
    above, level = rated > least, rated == least
    room = budget - above.sum(-1, keepdim=True)
    return (above | (level & (level.cumsum(-1) <= room))) & ~future


def _logits(q: Tensor, compressed: Tensor) -> Tensor:
    """q k^T / sqrt(d) in float32, [Hk, G, T, J]."""
    count, heads, width = q.shape
    kernels, kv_heads, _ = compressed.shape
    multiple = row_multiple(torch.float32, q.device)
    scaled = q.float() / math.sqrt(width)
    rows = scaled.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)  # [Hk, G * T, d]
    keys = compressed.float().transpose(0, 1)
    if kernels < _FEWEST_KERNELS:
        keys = pad(keys, (0, 0, 0, _FEWEST_KERNELS - kernels))
    each = [pad_rows(r, multiple) @ key.T for r, key in zip(rows, keys, strict=True)]
    return torch.stack(each)[:, : rows.shape[1], :kernels].unflatten(1, (heads // kv_heads, count))


def _positions(count: int, length: int, device: torch.device) -> Tensor:
    return torch.arange(length - count, length, device=device)


def _wide(device: torch.device) -> torch.dtype:
    """The format of sums whose order may differ: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
