"""The description of any model of the family, as frozen data.

Variation is by type: a layer holds one of the mixers and one of the feed-forwards of `config.mixers` and
`config.feed_forwards`, and each carries only its own numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minicpm.config.feed_forwards import FeedForward
from minicpm.config.heads import Head, NextToken
from minicpm.config.mixers import Mixer, SparseConfig
from minicpm.config.rope import Rope
from minicpm.config.vision import VisionConfig


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One residual block: a token mixer, then a feed-forward."""

    mixer: Mixer
    ffn: FeedForward


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """All that decides a decoder's shape and numerics.

    The three muP numbers are resolved: embeddings are multiplied by `embed_scale`, each residual
    branch by `residual_scale`, and logits are divided by `logit_scale`.
    `context` is the largest number of tokens a sequence may hold. `vision` is what it sees with, if it sees.
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
    head: Head = field(default_factory=NextToken)
    vision: VisionConfig | None = None
    notes: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def causal(self) -> bool:
        """True when a token sees none of those after it, so that what was computed of them can be kept."""
        return isinstance(self.head, NextToken)


def parameter_count(config: ModelConfig) -> int:
    """Number of weights, norms included, a tied head counted once."""
    per_layer = sum(
        layer.mixer.weights(config.hidden) + layer.ffn.weights(config.hidden) for layer in config.layers
    )
    norms = config.hidden * (2 * len(config.layers) + 1)
    embeddings = config.vocab * config.hidden * (1 if config.tied else 2)
    seeing = config.vision.weights(config.hidden) if config.vision else 0
    return per_layer + norms + embeddings + config.head.weights(config.hidden) + seeing
