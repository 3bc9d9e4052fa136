"""Multi-head latent attention: only a latent and one rotated key per token are remembered (DeepSeek-V2)."""

import torch
from torch import Tensor, nn

from minicpm.cache import LatentStore, Segment
from minicpm.config import MLA
from minicpm.config.kv import AUTO
from minicpm.layers.fused import fuse, hold, project
from minicpm.layers.lora import AdaptedLinear, weight_with
from minicpm.layers.norm import RMSNorm
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH, Backend
from minicpm.ops.latent.expansion import widened, with_shared_key
from minicpm.ops.latent.native import LatentSegment, NativeLatent, why_not
from minicpm.ops.linear import Weight
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.rows import pad_to

_FEW_QUERIES = 8  # from more on, expanding keys and values costs less than reading latents for each


class LatentAttention(nn.Module):
    """q_a_proj [qr, D], q_b_proj [H*(nope+rope), qr], kv_a_proj_with_mqa [r+rope, D], kv_b_proj
    [H*(nope+value), r], o_proj [D, H*value], with norms over the ranks qr and r.

    Without a cache, and unprepared, every projection is called as a module, and the keys and values of a
    sequence of n tokens take 2 * n * H * (nope + rope) numbers while its attention is computed. Prepared, the
    backend may read the cached latents themselves or expand some heads at a time.
    """

    def __init__(self, hidden: int, mixer: MLA, *, layer: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.layer = layer
        heads = mixer.heads
        self.q_a_proj = nn.Linear(hidden, mixer.q_rank, bias=False)
        self.q_a_layernorm = RMSNorm(mixer.q_rank, mixer.inner_eps)
        self.q_b_proj = nn.Linear(mixer.q_rank, heads * mixer.head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, mixer.kv_rank + mixer.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(mixer.kv_rank, mixer.inner_eps)
        self.kv_b_proj = nn.Linear(mixer.kv_rank, heads * (mixer.nope + mixer.value), bias=False)
        self.o_proj = nn.Linear(heads * mixer.value, hidden, bias=False)
        self._fused: Weight | None = None
        self._up: Tensor | None = None
        self._native: NativeLatent | None = None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """x [T, D] normalised; result [T, D]. Rows beyond the batch's tokens are padding and give zero."""
        compressed_q, compressed_kv = project(x, (self.q_a_proj, self.kv_a_proj_with_mqa), self._fused)
        q = self._queries(compressed_q, step)
        latents = self._latents(compressed_kv[: step.tokens], step)
        mixed = self._fresh(q, latents, step) if step.cache is None else self._cached(q, latents, step)
        return self.o_proj(pad_to(mixed.flatten(1), len(x)))

    def new_store(self, pages: int, dtype: torch.dtype, device: torch.device, kv: str = AUTO) -> LatentStore:
        """An empty store of `pages` pages for this layer; latents are no keys and values that `kv` means."""
        return LatentStore(pages, self.mixer.kv_rank + self.mixer.rope, dtype=dtype, device=device)

    def prepare(self, backend: Backend = TORCH) -> None:
        """Fuse projections of the input and leave the latents to the backend; inference only from here on.

        A packed kv_b_proj is held decoded beside its codes, because absorbing multiplies by its transpose.
        """
        self._fused = fuse(self, ("q_a_proj", "kv_a_proj_with_mqa"), backend)
        hold(self, ("q_b_proj", "o_proj"), backend)
        self._up = self.kv_b_proj.weight.detach()
        self._native = None
        if backend.runtime is not None:
            self._native = self._read_natively(self._up, backend.runtime)

    def _queries(self, compressed: Tensor, step: Step) -> Tensor:
        """q [T, H, nope + rope], its rope part rotated."""
        q = self.q_b_proj(self.q_a_layernorm(compressed, step.ops))[: step.tokens]
        nope, rope = q.unflatten(-1, (self.mixer.heads, -1)).split([self.mixer.nope, self.mixer.rope], dim=-1)
        return torch.cat((nope, step.ops.rotate(rope, step.angles)), dim=-1)

    def _latents(self, compressed: Tensor, step: Step) -> Tensor:
        """What is remembered of each token [T, r + rope]: the normalised latent c, the rotated shared key."""
        c, shared = compressed.split([self.mixer.kv_rank, self.mixer.rope], dim=-1)
        rotated = step.ops.rotate(shared[:, None], step.angles)[:, 0]
        return torch.cat((self.kv_a_layernorm(c, step.ops), rotated), dim=-1)

    def _fresh(self, q: Tensor, latents: Tensor, step: Step) -> Tensor:
        """What the heads read, [T, H, value], where every segment is a whole sequence."""
        k, v = self._expand(latents)
        return step.attend(self.layer, q, k, v)[..., : self.mixer.value]

    def _cached(self, q: Tensor, latents: Tensor, step: Step) -> Tensor:
        """What the heads read, [T, H, value], where segments continue sequences of the cache."""
        assert step.cache is not None
        assert step.plan is not None, "a forward with a cache has a plan"
        store = step.cache.stores[self.layer]
        assert isinstance(store, LatentStore), f"MLA needs a LatentStore, not {type(store).__name__}"
        store.write(step.plan.write, latents)
        if self._native is not None and self._few(step) and store.latents.dtype == torch.bfloat16:
            return self._native(q, store.latents, _natively(step))
        queries = q.split([segment.count for segment in step.segments])
        parts = zip(queries, step.plan.reads, step.segments, strict=True)
        # A cache may be narrower than the weights.
        return torch.cat(
            [self._read(part, store.read(rows).to(q.dtype), segment, step) for part, rows, segment in parts]
        )

    def _read(self, q: Tensor, latents: Tensor, segment: Segment, step: Step) -> Tensor:
        """[t, H, value] of one segment's queries over its sequence's latents [n, r + rope]."""
        up = self._matrix(segment)
        if up is None:
            k, v = self._expand(latents)
            return step.ops.attend(q, k, v)[..., : self.mixer.value]
        u_k, u_v = self._split(up.unflatten(0, (self.mixer.heads, -1)), dim=1)
        return step.ops.attend_latent(q, latents, u_k, u_v)

    def _read_natively(self, up: Tensor, runtime: Runtime) -> NativeLatent | None:
        """What reads cached latents natively, or None where the kernels cannot."""
        u_k, u_v = self._split(up.unflatten(0, (self.mixer.heads, -1)), dim=1)
        if why_not(u_k, u_v, self.mixer.kv_rank + self.mixer.rope) is not None:
            return None
        return NativeLatent(u_k, u_v, rope=self.mixer.rope, runtime=runtime)

    def _few(self, step: Step) -> bool:
        """Whether so few queries read each sequence that latents are better read as they are."""
        plain = not isinstance(self.kv_b_proj, AdaptedLinear)
        return plain and all(segment.count <= _FEW_QUERIES for segment in step.segments)

    def _matrix(self, segment: Segment) -> Tensor | None:
        """kv_b_proj as a matrix, with the segment's adapter; None where it may only be called.

        Adapters know the rows of the batch, not those of a cached sequence.
        """
        if isinstance(self.kv_b_proj, AdaptedLinear):
            return weight_with(self.kv_b_proj, segment.adapter)
        return self._up

    def _expand(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and widened values, both [n, H, nope + rope]."""
        c, shared = latents.split([self.mixer.kv_rank, self.mixer.rope], dim=-1)
        k, v = self._split(self.kv_b_proj(c).unflatten(-1, (self.mixer.heads, -1)), dim=-1)
        return with_shared_key(k, shared), widened(v, self.mixer.head_dim)

    def _split(self, joint: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
        """What belongs to keys and what to values, along an axis of nope + value."""
        k, v = joint.split([self.mixer.nope, self.mixer.value], dim=dim)
        return k, v


def _natively(step: Step) -> list[LatentSegment]:
    """The segments of a batch as rows of its queries and pages of the cache."""
    assert step.native is not None, "a native forward with a cache has a native step"
    segments, row = [], 0
    for segment, pages in zip(step.segments, step.native.pages, strict=True):
        segments.append(LatentSegment(row, segment.count, segment.start + segment.count, pages))
        row += segment.count
    return segments
