"""What a published model supports, in the words of `minicpm models`, from its config."""

from collections.abc import Iterator

from minicpm.config import (
    GQA,
    MLA,
    Dense,
    Embedding,
    FATReLU,
    InfLLM,
    LayerConfig,
    Lightning,
    ModelConfig,
    MoE,
    NextToken,
    Relevance,
)
from minicpm.models.published import Published
from minicpm.models.registry import parse

# Trained to choose blocks, whether or not their published config says so.
_SPARSE = ("minicpm4", "minicpm4.1", "minicpm-sala")


def abilities(row: Published) -> tuple[str, ...]:
    """Kinds of attention, kinds of feed-forward, then what the model is good for.

    "speculation" means that guesses of a draft can be verified and dropped: every model that writes text.
    """
    config = parse(row.raw)
    found = [word for layer in config.layers for word in _of_layer(layer)]
    if row.family in _SPARSE and not row.ternary:
        found.append("sparse")
    if row.ternary:
        found.append("ternary")
    return tuple(dict.fromkeys((*found, *_of_model(config))))


def _of_layer(layer: LayerConfig) -> Iterator[str]:
    match layer.mixer:
        case GQA():
            yield "dense"
        case InfLLM():
            yield from ("dense", "sparse")
        case MLA():
            yield "latent"
        case Lightning():
            yield "linear"
    match layer.ffn:
        case MoE():
            yield "experts"
        case Dense(act=FATReLU()):
            yield "inactive neurons"


def _of_model(config: ModelConfig) -> Iterator[str]:
    if config.vision is not None:
        yield "vision"
    match config.head:
        case NextToken():
            yield "speculation"
        case Embedding():
            yield "embeddings"
        case Relevance():
            yield "reranking"
