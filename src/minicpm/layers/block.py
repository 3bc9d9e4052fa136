"""One residual block: norm, mixer, norm, feed-forward."""

import torch
from torch import Tensor, nn

from minicpm.config import ModelConfig
from minicpm.layers.feed_forwards import feed_forward
from minicpm.layers.mixers import mixer
from minicpm.layers.native_block import NativeAttention, NativeMLP, can_attention, can_mlp
from minicpm.layers.native_neurons import NativeSparseMLP, neurons_of, why_not_neurons
from minicpm.layers.norm import RMSNorm
from minicpm.layers.sparse_mlp import SparseMLP
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH, Backend


class Block(nn.Module):
    """h + s * mixer(norm(h)), then h + s * ffn(norm(h)), with s the residual scale."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        layer = config.layers[index]
        self.residual_scale = config.residual_scale
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = mixer(config.hidden, layer.mixer, layer=index, norm_eps=config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = feed_forward(config.hidden, layer.ffn)
        self._native_mixer: NativeAttention | None = None
        self._native_mlp: NativeMLP | NativeSparseMLP | None = None

    def forward(self, h: Tensor, step: Step, rows: Tensor | None = None) -> Tensor:
        """h [T, D] after this block, or [R, D] of the `rows` wanted: the others only feed the mixer."""
        return self._feed(self._mix(h, step, rows), step)

    def _mix(self, h: Tensor, step: Step, rows: Tensor | None) -> Tensor:
        if self._mixes_natively(step):
            assert self._native_mixer is not None
            h = h.clone()
            self._native_mixer(h, step)
            return h if rows is None else h[rows]
        mixed = self.self_attn(self.input_layernorm(h, step.ops), step)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        return torch.add(h, mixed, alpha=self.residual_scale)

    def _mixes_natively(self, step: Step) -> bool:
        native = self._native_mixer
        if native is None or step.native is None or step.cache is None:
            return False
        return native.reads(step.cache) and can_attention(self.self_attn)

    def _feed(self, h: Tensor, step: Step) -> Tensor:
        """The second half; it may write over h."""
        if self._native_mlp is not None and can_mlp(self.mlp):
            self._native_mlp(h)
            return h
        return torch.add(h, self.mlp(self.post_attention_layernorm(h, step.ops)), alpha=self.residual_scale)

    @property
    def native_halves(self) -> tuple[NativeAttention | None, NativeMLP | NativeSparseMLP | None]:
        """What does each half in one native call, where something does."""
        mixer = self._native_mixer if can_attention(self.self_attn) else None
        return mixer, self._native_mlp if can_mlp(self.mlp) else None

    def prepare(self, backend: Backend = TORCH) -> None:
        """Fuse projections for inference."""
        self.self_attn.prepare(backend)
        self.mlp.prepare(backend)
        if (runtime := backend.runtime) is None:
            return
        scale = self.residual_scale
        if can_attention(self.self_attn):
            self._native_mixer = NativeAttention(self.input_layernorm, self.self_attn, scale, runtime)
            self.self_attn.native_pages = True
        if isinstance(self._native_mlp, NativeSparseMLP):  # whose copies may be of other weights
            self._native_mlp = self._native_mlp.dense
        if can_mlp(self.mlp):
            self._native_mlp = NativeMLP(self.post_attention_layernorm, self.mlp, scale, runtime)

    def why_not_skip(self) -> str | None:
        """Why no neurons can be left out of the feed-forward, a `SparseMLP`; None when some can."""
        assert isinstance(self.mlp, SparseMLP), "other feed-forwards leave no neuron at exactly zero"
        return self.mlp.why_not_skip() if self._native_mlp is None else why_not_neurons(self.mlp)

    def skip_inactive(self, rows: int) -> None:
        """Leave inactive neurons out of forwards of up to `rows` rows, natively until prepared anew.

        `why_not_skip` must know no reason. A `NativeStack` over this block must be made anew.
        """
        assert isinstance(self.mlp, SparseMLP), "why_not_skip was not asked"
        match self._native_mlp:
            case None:
                self.mlp.skip_inactive(rows)
            case NativeSparseMLP(dense=dense, neurons=neurons):
                self._native_mlp = NativeSparseMLP(dense, neurons, rows)
            case NativeMLP(runtime=runtime) as dense:
                neurons = neurons_of(self.post_attention_layernorm, self.mlp, self.residual_scale, runtime)
                self._native_mlp = NativeSparseMLP(dense, neurons, rows)
