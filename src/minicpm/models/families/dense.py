"""What all dense decoders of the family share: sizes, tokens, rope, dtype."""

from dataclasses import dataclass

from minicpm.config import GQA, Dense, FeedForward, LayerConfig, RawConfig, Rope
from minicpm.models.families.rope import read_rope

# Far above any model and any context in use.
_MOST_LAYERS = 4096
_LONGEST = 2**31


@dataclass(frozen=True, slots=True)
class DenseShape:
    """Sizes read from a raw config."""

    hidden: int
    vocab: int
    layers: tuple[LayerConfig, ...]
    context: int
    norm_eps: float
    rope: Rope


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values a family's config class gives to missing keys."""

    context: int
    norm_eps: float
    rope_theta: float = 10000.0


def read_dense_shape(raw: RawConfig, defaults: Defaults, *, ffn: FeedForward | None = None) -> DenseShape:
    """The sizes of a uniform stack of GQA layers; without `ffn` a dense feed-forward with SiLU is read."""
    hidden = raw.integer("hidden_size")
    mixer = _read_gqa(raw, hidden)
    layer = LayerConfig(mixer, ffn or read_ffn(raw))
    return read_shape(raw, defaults, layer, hidden=hidden, rotary=mixer.head_dim)


def read_shape(
    raw: RawConfig, defaults: Defaults, layer: LayerConfig, *, hidden: int, rotary: int
) -> DenseShape:
    """The sizes of a uniform stack of `layer`s; `rotary` is how wide their rope is."""
    raw.expect("attention_bias", (False,), "projections with bias are not part of this family")
    raw.expect("mlp_bias", (False,), "projections with bias are not part of this family")
    context = raw.integer("max_position_embeddings", defaults.context, most=_LONGEST)
    return DenseShape(
        hidden=hidden,
        vocab=raw.integer("vocab_size"),
        layers=(layer,) * raw.integer("num_hidden_layers", most=_MOST_LAYERS),
        context=context,
        norm_eps=raw.number("rms_norm_eps", defaults.norm_eps),
        rope=read_rope(raw, dim=rotary, context=context, default_theta=defaults.rope_theta),
    )


def read_ffn(raw: RawConfig) -> Dense:
    """A dense feed-forward with SiLU."""
    raw.expect("hidden_act", ("silu",), "only silu is known for this family")
    return Dense(raw.integer("intermediate_size"))


def _read_gqa(raw: RawConfig, hidden: int) -> GQA:
    heads = raw.integer("num_attention_heads")
    kv_heads = raw.integer("num_key_value_heads", heads)
    head_dim = raw.integer("head_dim", max(hidden // heads, 1))
    if not raw.sound("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
        return GQA(1, 1, 1)
    if not raw.has("head_dim") and hidden % heads:
        raw.problem(
            f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and there is no head_dim"
        )
    if heads % kv_heads:
        raw.problem(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raw.problem(f"head_dim {head_dim} is odd, rotary embedding needs pairs")
    return GQA(heads, kv_heads, head_dim)
