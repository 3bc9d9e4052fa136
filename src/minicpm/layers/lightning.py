"""Linear attention with a constant decay per head, over a state instead of a history."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from minicpm.cache import PAGE, Recent, Segment, StateStore
from minicpm.config import Lightning
from minicpm.config.kv import AUTO
from minicpm.layers.fused import fuse, hold, project
from minicpm.layers.norm import RMSNorm
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH, Backend
from minicpm.ops.lightning.decay import alibi_slopes
from minicpm.ops.lightning.native import Span, advance, why_not
from minicpm.ops.linear import Weight
from minicpm.ops.rows import pad_to

Operator = Callable[..., tuple[Tensor, Tensor]]


class LightningAttention(nn.Module):
    """The lightning layer of MiniCPM-SALA: norm of q and k, rotation, operator, norm of all heads, gate.

    q_proj and o_proj's transpose [H*d, D], k_proj and v_proj [Hk*d, D]; where the config has them z_proj, the
    gate, [H*d, D], q_norm and k_norm [d], o_norm [H*d].
    """

    def __init__(self, hidden: int, mixer: Lightning, *, layer: int, norm_eps: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.layer = layer
        queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
        self.q_proj = nn.Linear(hidden, queries, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, hidden, bias=False)
        if mixer.gated:
            self.z_proj = nn.Linear(hidden, queries, bias=False)
        if mixer.qk_norm:
            self.q_norm = RMSNorm(mixer.head_dim, norm_eps)
            self.k_norm = RMSNorm(mixer.head_dim, norm_eps)
        if mixer.output_norm:
            self.o_norm = RMSNorm(queries, norm_eps)
        self._fused: Weight | None = None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """x [T, D] normalised; result [T, D]. Rows beyond the batch's tokens are padding and give zero."""
        width = self.mixer.head_dim
        projected = project(x, (self.q_proj, self.k_proj, self.v_proj), self._fused)
        q, k, v = (part[: step.tokens].unflatten(-1, (-1, width)) for part in projected)
        mixed = self._mix(*self._placed(q, k, step), v, step).flatten(1)
        if self.mixer.output_norm:
            mixed = self.o_norm(mixed, step.ops)
        mixed = pad_to(mixed, len(x))
        if self.mixer.gated:
            mixed = mixed * torch.sigmoid(self.z_proj(x))
        return self.o_proj(mixed)

    def new_store(self, pages: int, dtype: torch.dtype, device: torch.device, kv: str = AUTO) -> StateStore:
        """An empty store; states are float32 whatever dtype and kv are, and no page holds any of them."""
        return StateStore()

    def prepare(self, backend: Backend = TORCH) -> None:
        """Fuse the three input projections; inference only from here on."""
        self._fused = fuse(self, ("q_proj", "k_proj", "v_proj"), backend)
        hold(self, ("o_proj", "z_proj") if self.mixer.gated else ("o_proj",), backend)

    def _placed(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Queries and keys normalised per head, then rotated to their positions."""
        if self.mixer.qk_norm:
            q, k = self.q_norm(q, step.ops), self.k_norm(k, step.ops)
        if self.mixer.rotary:
            q, k = step.ops.rotate(q, step.angles), step.ops.rotate(k, step.angles)
        return q, k

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        """What the heads read for q [T, H, d], k and v [T, Hk, d], segment by segment; [T, H, d]."""
        assert step.causal, (
            "a state has seen only what came before, so nothing after a token can be attended to"
        )
        if (
            step.ops.runtime is not None
            and step.cache is not None
            and why_not(k.shape[2], v.shape[2]) is None
        ):
            return self._advance(q, k, v, step)
        group = self.mixer.heads // self.mixer.kv_heads
        k, v = (x.repeat_interleave(group, dim=1) if group > 1 else x for x in (k, v))
        slopes = alibi_slopes(self.mixer.heads, q.device)
        counts = [segment.count for segment in step.segments]
        segments = zip(step.segments, *(torch.split(x, counts) for x in (q, k, v)), strict=True)
        return torch.cat([self._read(segment, qkv, slopes, step) for segment, *qkv in segments])

    def _advance(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        """As `_mix`, all sequences of a cache in one native call."""
        assert step.ops.runtime is not None
        slopes, spans, row = alibi_slopes(self.mixer.heads, q.device), [], 0
        for segment in step.segments:
            store, seq = self._state_store(segment, step)
            before = store.state(seq)
            for count in store.pieces(seq, segment.count):
                after = torch.empty(self.mixer.heads, k.shape[2], v.shape[2])
                spans.append(Span(before, after, row, count))
                before, row = after, row + count
        out = advance(q, k, v, spans, slopes=slopes, scale=self.mixer.scale, runtime=step.ops.runtime)
        self._commit(spans, k, v, slopes, step)
        return out

    def _commit(self, spans: Sequence[Span], k: Tensor, v: Tensor, slopes: Tensor, step: Step) -> None:
        """Let the store see every state of a native call, in the order of its spans."""
        left, group = iter(spans), self.mixer.heads // self.mixer.kv_heads
        row = 0
        for segment in step.segments:
            store, seq = self._state_store(segment, step)
            met = store.state(seq)
            for count in store.pieces(seq, segment.count):
                store.advance(seq, count, next(left).after)
            if 1 < segment.count <= PAGE:
                own = (x[row : row + segment.count].repeat_interleave(group, dim=1) for x in (k, v))
                store.remember(seq, Recent(segment.start, met, *own, slopes))
            row += segment.count

    def _state_store(self, segment: Segment, step: Step) -> tuple[StateStore, int]:
        """The layer's store, and the sequence that the segment continues in it."""
        assert step.cache is not None
        store, seq = step.cache.stores[self.layer], segment.seq
        assert isinstance(store, StateStore), f"lightning needs a StateStore, not {type(store).__name__}"
        assert seq is not None, "a batch with a cache needs a sequence for every segment"
        assert segment.start == store.length(seq), (
            f"segment starts at {segment.start}, its state has seen {store.length(seq)} tokens"
        )
        return store, seq

    def _read(self, segment: Segment, qkv: list[Tensor], slopes: Tensor, step: Step) -> Tensor:
        operator = partial(step.ops.lightning, slopes=slopes, scale=self.mixer.scale)
        if step.cache is None:
            return operator(*qkv)[0]
        store, seq = self._state_store(segment, step)
        met = store.state(seq)
        out = _continue(operator, store, seq, qkv)
        if 1 < segment.count <= PAGE:
            k, v = (x.detach().clone() for x in qkv[1:])  # views would hold on to the whole batch
            store.remember(seq, Recent(segment.start, met, k, v, slopes))
        return out


def _continue(operator: Operator, store: StateStore, seq: int, qkv: list[Tensor]) -> Tensor:
    """Outputs of a sequence's next tokens, page by page, so that the store sees the state at each end."""
    pieces = store.pieces(seq, len(qkv[0]))
    outputs = [qkv[0][:0]]
    for count, *tensors in zip(pieces, *(torch.split(x, pieces) for x in qkv), strict=True):
        out, state = operator(*tensors, store.state(seq))
        store.advance(seq, count, state)
        outputs.append(out)
    return torch.cat(outputs)
