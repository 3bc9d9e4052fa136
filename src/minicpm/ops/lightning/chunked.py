"""Lightning attention a chunk of tokens at a time: matrix products inside, a state between.

Legend: H heads, C tokens of a chunk, dk and dv widths of keys and values, a and b positions in a chunk.
"""

import torch
from torch import Tensor

from minicpm.ops.lightning.decay import causal_decay, decay_powers
from minicpm.ops.lightning.reference import initial_state, recurrent

CHUNK = 64  # tokens; the products of a chunk and those with a state 128 wide then cost about the same


def chunked(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, *, slopes: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """As `reference.recurrent`, in chunks of 64 tokens; the last one may be shorter.

    A single token takes the recurrence itself, which is faster than products of one row.
    """
    if q.shape[-3] == 1:
        return recurrent(q, k, v, state, slopes=slopes, scale=scale)
    return _in_chunks(q, k, v, state, slopes=slopes, scale=scale, chunk=CHUNK)


def parallel(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, *, slopes: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """As `reference.recurrent`, all tokens at once: o = scale ((q k^T) * D) v; T^2 products per head."""
    return _in_chunks(q, k, v, state, slopes=slopes, scale=scale, chunk=max(q.shape[-3], 1))


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, *, slopes: Tensor, scale: float, chunk: int
) -> tuple[Tensor, Tensor]:
    state = initial_state(k, v) if state is None else state
    powers = decay_powers(slopes, min(chunk, q.shape[-3]))
    within = causal_decay(powers, powers.shape[-1] - 1)
    outputs = []
    parts = (torch.split(heads_first(x), chunk, dim=-2) for x in (q, k, v))
    for q_c, k_c, v_c in zip(*parts, strict=True):
        count = q_c.shape[-2]
        weights = within[:, :count, :count]
        outputs.append(mix(q_c, k_c, v_c, state, within=weights, since=powers[:, 1 : count + 1]))
        state = advance(k_c, v_c, state, powers)
    out = scale * torch.cat(outputs, dim=-2)
    return out.transpose(-2, -3).to(q.dtype), state


def heads_first(x: Tensor) -> Tensor:
    """x [..., T, H, d] as float32 [..., H, T, d]."""
    return x.transpose(-2, -3).float()


def mix(q: Tensor, k: Tensor, v: Tensor, state: Tensor, *, within: Tensor, since: Tensor) -> Tensor:
    """((q k^T) * within) v + since * (q state), [..., H, C, dv], for q, k, v [..., H, C, d].

    `within` [H, C, C] weighs each token's view of each other, `since` [H, C] its view of the state.
    """
    scores = (q @ k.transpose(-1, -2)) * within
    return scores @ v + since[..., None] * (q @ state)


def advance(k: Tensor, v: Tensor, state: Tensor, powers: Tensor) -> Tensor:
    """The state C tokens on: lambda^C S + sum over a of lambda^(C - 1 - a) k_a v_a^T.

    k and v [..., H, C, d] float32; powers [H, >= C + 1] from `decay_powers`.
    """
    count = k.shape[-2]
    left = powers[:, :count].flip(-1)[..., None]  # lambda^(C - 1 - a)
    return powers[:, count, None, None] * state + (left * k).transpose(-1, -2) @ v
