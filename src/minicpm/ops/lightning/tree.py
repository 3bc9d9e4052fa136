"""Lightning attention over a tree of draft tokens that all follow one committed state."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minicpm.ops.lightning.chunked import advance, heads_first, mix
from minicpm.ops.lightning.decay import decay_powers
from minicpm.ops.lightning.reference import initial_state


def tree(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    parents: Sequence[int],
    *,
    slopes: Tensor,
    scale: float,
) -> Tensor:
    """What `reference.recurrent` gives each node on the path from the root to it, [T, H, dv] like q.

    q, k, v [T, H, d]; `parents` holds each node's parent, an earlier row, or -1 for a node that follows the
    committed `state` [H, dk, dv] directly; several may. With depths dep from 0:
    o_x = scale (lambda^(dep x + 1) q_x^T S + sum over y in path(x) of lambda^(dep x - dep y) (q_x k_y) v_y).
    The state, None at a sequence's start, stays as it is until a path is accepted, see `commit`.
    """
    state = initial_state(k, v) if state is None else state
    paths = _paths(parents, q.device)
    depths = paths.sum(-1) - 1
    powers = decay_powers(slopes, len(parents))
    within = powers[:, (depths[:, None] - depths).clamp_min(0)] * paths
    since = powers[:, depths + 1]
    out = mix(heads_first(q), heads_first(k), heads_first(v), state, within=within, since=since)
    return (scale * out).transpose(-2, -3).to(q.dtype)


def commit(k: Tensor, v: Tensor, state: Tensor | None, path: Sequence[int], *, slopes: Tensor) -> Tensor:
    """The state after the accepted rows `path`, root first, of a tree's k and v [T, H, d]."""
    state = initial_state(k, v) if state is None else state
    rows = torch.tensor(path, dtype=torch.int64, device=k.device)
    return advance(heads_first(k[rows]), heads_first(v[rows]), state, decay_powers(slopes, len(path)))


def _paths(parents: Sequence[int], device: torch.device) -> Tensor:
    """[T, T] bool: whether node y lies on the path from the root to node x, x itself included."""
    paths = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        assert -1 <= parent < node, f"node {node} names {parent} as its parent, which is not an earlier row"
        if parent >= 0:
            paths[node] |= paths[parent]
    return paths.to(device)
