"""Latent attention that makes keys and values where many queries share them, and none where few do.

Expanded, every cached latent becomes keys and values. Absorbed, queries and results move into the space of
the latents instead, where all heads read the same rows:

    q_h . (u_k_h c) = (u_k_h^T q_h) . c        and        sum p (u_v_h c) = u_v_h (sum p c)
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from minicpm.ops.attention.cpu import attend
from minicpm.ops.latent.expansion import expand, widened

# A long past is expanded for as many heads at a time as this holds, one at least.
_EXPANDED_BYTES = 2**26


def attend_latent(q: Tensor, latents: Tensor, u_k: Tensor, u_v: Tensor) -> Tensor:
    """As the reference: q [T, H, nope + rope], latents [n, r + rope], result [T, H, value]."""
    if absorbing_is_cheaper(len(q), len(latents), u_k, u_v):
        return attend_absorbed(q, latents, u_k, u_v)
    heads = max(1, _EXPANDED_BYTES // max(1, _bytes_per_head(q, latents)))
    groups = zip(q.split(heads, dim=1), u_k.split(heads), u_v.split(heads), strict=True)
    return torch.cat([attend_expanded(part, latents, k, v) for part, k, v in groups], dim=1)


def absorbing_is_cheaper(count: int, length: int, u_k: Tensor, u_v: Tensor) -> bool:
    """Compares the multiplications per head of both forms; the rope part costs both the same."""
    (nope, rank), value = u_k.shape[1:], u_v.shape[1]
    moving = rank * (nope + value)  # a latent to its key and value, or a query and its result
    expanded = length * moving + count * length * (nope + value)
    absorbed = count * moving + count * length * 2 * rank
    return absorbed < expanded


def attend_expanded(q: Tensor, latents: Tensor, u_k: Tensor, u_v: Tensor) -> Tensor:
    """The result [T, H, value] through the keys and values of all n latents."""
    k, v = expand(latents, u_k, u_v)
    return attend(q, k, widened(v, k.shape[-1]))[..., : v.shape[-1]]


def attend_absorbed(q: Tensor, latents: Tensor, u_k: Tensor, u_v: Tensor) -> Tensor:
    """The result [T, H, value] through the latents themselves."""
    nope, rank = u_k.shape[1:]
    moved = torch.bmm(q[..., :nope].transpose(0, 1), u_k).transpose(0, 1)  # [T, H, r]
    context = _read(torch.cat((moved, q[..., nope:]), dim=-1), latents, scale=q.shape[-1] ** -0.5)[..., :rank]
    return torch.bmm(context.transpose(0, 1), u_v.transpose(1, 2)).transpose(0, 1)


def _read(q: Tensor, latents: Tensor, *, scale: float) -> Tensor:
    """softmax(scale * q . row) row, [T, H, w], for q [T, H, w] over the rows [n, w] each query sees.

    Query by query, with many heads on one axis: they share every row they read, and no mask is needed. Whole
    rows are summed, because fused attention wants values as wide as keys.
    """
    past, groups = len(latents) - len(q), _groups(q.shape[1])
    outs = []
    for t, x in enumerate(q.unflatten(1, (groups, -1))):
        rows = latents[None, None, : past + t + 1].expand(1, groups, -1, -1)
        outs.append(sdpa(x[None], rows, rows, scale=scale))
    return torch.cat(outs).flatten(1, 2)


def _groups(heads: int) -> int:
    """Into how many equal groups to part the heads: fused attention gives each to one thread."""
    return max(n for n in range(1, min(heads, torch.get_num_threads()) + 1) if heads % n == 0)


def _bytes_per_head(q: Tensor, latents: Tensor) -> int:
    """Bytes of one head's keys and widened values."""
    return 2 * len(latents) * q.shape[-1] * q.element_size()
