"""Attention within segments, slow and obvious."""

import math

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for the last T of n positions, softmax in float32.

    q [T, H, d], k and v [n, Hk, d] with n >= T; query t sees keys 0 .. n - T + t.
    Query head h reads key/value head h // (H / Hk). Result [T, H, d] like q.
    """
    count, heads, width = q.shape
    length, kv_heads, _ = k.shape
    k = k.repeat_interleave(heads // kv_heads, dim=1)
    v = v.repeat_interleave(heads // kv_heads, dim=1)
    scores = torch.einsum("thd,nhd->htn", q.float(), k.float()) / math.sqrt(width)
    last_seen = torch.arange(length - count, length, device=q.device)
    future = torch.arange(length, device=q.device)[None, :] > last_seen[:, None]
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return torch.einsum("htn,nhd->thd", weights, v.float()).to(q.dtype)


def attend_equal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` for B fresh segments of the same length: q [B, T, H, d], k and v [B, T, Hk, d]."""
    return torch.stack([attend(*segment) for segment in zip(q, k, v, strict=True)])


def attend_full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v where every position sees the whole of its segment, softmax in float32.

    B segments of one length: q [B, T, H, d], k and v [B, T, Hk, d]; result [B, T, H, d] like q.
    """
    group = q.shape[2] // k.shape[2]
    k = k.repeat_interleave(group, dim=2)
    v = v.repeat_interleave(group, dim=2)
    scores = torch.einsum("bthd,bnhd->bhtn", q.float(), k.float()) / math.sqrt(q.shape[3])
    return torch.einsum("bhtn,bnhd->bthd", scores.softmax(dim=-1), v.float()).to(q.dtype)
