"""Keys and values of every head, made from latents.

Legend: n tokens, H heads, r the latent's rank; nope, rope and value are widths of a head.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def expand(latents: Tensor, u_k: Tensor, u_v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys [n, H, nope + rope] and values [n, H, value]: k_h = [u_k_h c; shared key], v_h = u_v_h c.

    A row of latents [n, r + rope] is a normalised latent c and the rotated key that all heads share;
    u_k [H, nope, r], u_v [H, value, r] (DeepSeek-V2, arXiv 2405.04434, equations 41 to 45).
    """
    rank = u_k.shape[-1]
    c, shared = latents[:, :rank], latents[:, rank:]
    k = torch.einsum("nr,hdr->nhd", c, u_k)
    return with_shared_key(k, shared), torch.einsum("nr,hdr->nhd", c, u_v)


def with_shared_key(k: Tensor, shared: Tensor) -> Tensor:
    """k [n, H, nope] and shared [n, rope] side by side in every head, [n, H, nope + rope]."""
    return torch.cat((k, shared[:, None].expand(-1, k.shape[1], -1)), dim=-1)


def widened(v: Tensor, width: int) -> Tensor:
    """v [n, H, value] with zeros appended up to `width`: fused attention wants values as wide as keys."""
    assert v.shape[-1] <= width, f"values {v.shape[-1]} wide are wider than keys of {width}"
    return pad(v, (0, width - v.shape[-1]))
