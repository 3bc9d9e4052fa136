"""LlamaForCausalLM: MiniCPM5 and checkpoints converted to the llama format, both without muP scaling."""

from minicpm.config import GQA, ModelConfig, RawConfig
from minicpm.models.families.dense import Defaults, DenseShape, read_dense_shape

_DEFAULTS = Defaults(context=2048, norm_eps=1e-6)


def parse(raw: RawConfig) -> ModelConfig:
    """The config of a plain Llama checkpoint; converted ones carry muP folded into their weights."""
    for key in ("scale_emb", "scale_depth", "dim_model_base"):
        raw.expect(key, (1,), "a llama-format checkpoint has this folded into its weights already")
    shape = read_dense_shape(raw, _DEFAULTS)
    return ModelConfig(
        family=_family(shape),
        hidden=shape.hidden,
        vocab=shape.vocab,
        layers=shape.layers,
        rope=shape.rope,
        context=shape.context,
        norm_eps=shape.norm_eps,
        embed_scale=1.0,
        residual_scale=1.0,
        logit_scale=1.0,
        tied=raw.boolean("tie_word_embeddings", False),
        dtype=raw.text("torch_dtype", raw.text("dtype", "bfloat16")),
        bos=raw.token("bos_token_id", 1),
        eos=raw.tokens("eos_token_id", (2,)),
        pad=raw.token("pad_token_id", None),
    )


def _family(shape: DenseShape) -> str:
    mixer: GQA = shape.layers[0].mixer
    widened = mixer.heads * mixer.head_dim != shape.hidden
    return "minicpm5" if widened else "minicpm-llama"
