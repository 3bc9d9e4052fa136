"""What all muP decoders share: the three scales, a tied head, the tokens that bound a text."""

import math

from minicpm.config import ModelConfig, RawConfig
from minicpm.models.families.dense import DenseShape


def mup_config(raw: RawConfig, shape: DenseShape, *, family: str) -> ModelConfig:
    """The config of a muP decoder of this shape; a missing `tie_word_embeddings` means tied."""
    return ModelConfig(
        family=family,
        hidden=shape.hidden,
        vocab=shape.vocab,
        layers=shape.layers,
        rope=shape.rope,
        context=shape.context,
        norm_eps=shape.norm_eps,
        embed_scale=raw.number("scale_emb", 1),
        residual_scale=raw.number("scale_depth", 1) / math.sqrt(len(shape.layers)),
        logit_scale=shape.hidden / raw.number("dim_model_base", 1),
        tied=raw.boolean("tie_word_embeddings", True),
        dtype=raw.text("torch_dtype", raw.text("dtype", "bfloat16")),
        bos=raw.token("bos_token_id", 1),
        eos=raw.tokens("eos_token_id", (2,)),
        pad=raw.token("pad_token_id", None),
    )
