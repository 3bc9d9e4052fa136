"""Latent attention of one segment, slow and obvious."""

from torch import Tensor

from minicpm.ops.attention.reference import attend
from minicpm.ops.latent.expansion import expand


def attend_latent(q: Tensor, latents: Tensor, u_k: Tensor, u_v: Tensor) -> Tensor:
    """Causal attention to the keys and values of `latents`, for the last T of n positions, in float32.

    q [T, H, nope + rope], its rope part rotated; latents [n, r + rope], u_k [H, nope, r] and
    u_v [H, value, r] as in `expand`, with value <= nope + rope. Scores are divided by sqrt(nope + rope).
    Result [T, H, value] like q (DeepSeek-V2, arXiv 2405.04434, equation 46).
    """
    k, v = expand(latents.float(), u_k.float(), u_v.float())
    return attend(q.float(), k, v).to(q.dtype)
