"""Attention through torch's scaled_dot_product_attention.

`enable_gqa` is avoided: on a CPU its decode is an order of magnitude slower than folding the query
group into the query axis.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the reference: q [T, H, d], k and v [n, Hk, d], result [T, H, d]."""
    if q.shape[0] == 1:
        return _decode(q, k, v)
    count, heads, width = q.shape
    length, kv_heads, _ = k.shape
    group = heads // kv_heads
    q_grouped = q.reshape(count, kv_heads, group, width).permute(1, 2, 0, 3)  # [Hk, G, T, d]
    k_grouped = k.transpose(0, 1)[:, None].expand(-1, group, -1, -1)  # [Hk, G, n, d]
    v_grouped = v.transpose(0, 1)[:, None].expand(-1, group, -1, -1)
    if length == count:
        out = sdpa(q_grouped, k_grouped, v_grouped, is_causal=True)
    else:
        out = sdpa(q_grouped, k_grouped, v_grouped, attn_mask=_visible(count, length, q.device))
    return out.permute(2, 0, 1, 3).reshape(count, heads, width)


def attend_equal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the reference: q [B, T, H, d], k and v [B, T, Hk, d], result [B, T, H, d]."""
    return _equal(q, k, v, causal=True)


def attend_full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the reference: q [B, T, H, d], k and v [B, T, Hk, d], result [B, T, H, d]."""
    return _equal(q, k, v, causal=False)


def _equal(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    group = q.shape[2] // k.shape[2]
    k = k.repeat_interleave(group, dim=2)
    v = v.repeat_interleave(group, dim=2)
    out = sdpa(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal)
    return out.transpose(1, 2)


def _decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    _, heads, width = q.shape
    kv_heads = k.shape[1]
    folded = q.reshape(1, kv_heads, heads // kv_heads, width)
    out = sdpa(folded, k.transpose(0, 1)[None], v.transpose(0, 1)[None])
    return out.reshape(1, heads, width)


def _visible(count: int, length: int, device: torch.device) -> Tensor:
    last_seen = torch.arange(length - count, length, device=device)
    return torch.arange(length, device=device)[None, :] <= last_seen[:, None]
