"""The description of any model of the family, as frozen data.

Variation is by type: a layer's mixer is a `GQA` today, and other mixers join the union as their
mathematics arrives; each carries only its own numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minicpm.config.rope import Rope


@dataclass(frozen=True, slots=True)
class GQA:
    """Grouped-query attention: query head h reads key/value head h // (heads / kv_heads)."""

    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class Dense:
    """A gated feed-forward of width `intermediate`: down(silu(gate(x)) * up(x))."""

    intermediate: int


Mixer = GQA
FFN = Dense


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One residual block: a token mixer, then a feed-forward."""

    mixer: Mixer
    ffn: FFN


@dataclass(frozen=True, slots=True)
class SparseConfig:
    """InfLLM-V2 geometry in tokens, except `topk` and `init_blocks`, which count blocks."""

    kernel_size: int = 32
    kernel_stride: int = 16
    init_blocks: int = 1
    block_size: int = 64
    window_size: int = 2048
    topk: int = 64
    use_nope: bool = False
    dense_len: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """All that decides a decoder's shape and numerics.

    The three muP numbers are resolved: embeddings are multiplied by `embed_scale`, each residual
    branch by `residual_scale`, and logits are divided by `logit_scale`.
    `context` is the largest number of tokens a sequence may hold.
    """

    family: str
    hidden: int
    vocab: int
    layers: tuple[LayerConfig, ...]
    rope: Rope
    context: int
    norm_eps: float
    embed_scale: float
    residual_scale: float
    logit_scale: float
    tied: bool
    dtype: str
    bos: int | None
    eos: tuple[int, ...]
    pad: int | None
    sparse: SparseConfig | None = None
    notes: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def parameter_count(config: ModelConfig) -> int:
    """Number of weights, norms included, a tied head counted once."""
    per_layer = sum(
        _mixer_count(config, layer.mixer) + _ffn_count(config, layer.ffn) for layer in config.layers
    )
    norms = config.hidden * (2 * len(config.layers) + 1)
    embeddings = config.vocab * config.hidden * (1 if config.tied else 2)
    return per_layer + norms + embeddings


def _mixer_count(config: ModelConfig, mixer: Mixer) -> int:
    return 2 * config.hidden * mixer.head_dim * (mixer.heads + mixer.kv_heads)


def _ffn_count(config: ModelConfig, ffn: FFN) -> int:
    return 3 * config.hidden * ffn.intermediate
