"""The recurrence of lightning attention, slow and obvious."""

import torch
from torch import Tensor


def initial_state(k: Tensor, v: Tensor) -> Tensor:
    """The state before the first token: zeros, float32 [..., H, dk, dv], for k and v [..., T, H, d]."""
    return k.new_zeros((*k.shape[:-3], *k.shape[-2:], v.shape[-1]), dtype=torch.float32)


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, *, slopes: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """S_t = lambda S_(t-1) + k_t v_t^T and o_t = scale q_t^T S_t, token by token in float32.

    q and k [..., T, H, dk], v [..., T, H, dv], slopes [H] with lambda = exp(-slope) (MiniCPM-SALA's
    constant decay; the scalar-decay case of arXiv 2312.06635). `state` [..., H, dk, dv] float32 is what
    came before, None for nothing; it is not written to.
    Gives the outputs [..., T, H, dv] in q's dtype and the state after the last token, float32.
    """
    state = initial_state(k, v) if state is None else state
    kept = torch.exp(-slopes)[:, None, None]
    outputs = []
    for t in range(q.shape[-3]):
        q_t, k_t, v_t = (x[..., t, :, :].float() for x in (q, k, v))
        state = kept * state + k_t[..., :, None] * v_t[..., None, :]
        outputs.append(scale * (q_t[..., None, :] @ state)[..., 0, :])
    out = torch.stack(outputs, dim=-3) if outputs else torch.zeros_like(v, dtype=torch.float32)
    return out.to(q.dtype), state
