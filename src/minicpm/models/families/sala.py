"""MiniCPMSALAForCausalLM: softmax layers without rope between lightning layers with it (MiniCPM-SALA)."""

import math
from dataclasses import replace

from minicpm.config import GQA, InfLLM, LayerConfig, Lightning, LongRope, Mixer, ModelConfig, RawConfig, Rope
from minicpm.models.families import minicpm

_SOFTMAX = "minicpm4"
_LIGHTNING = ("lightning-attn", "lightning_attn", "lightning")


def parse(raw: RawConfig) -> ModelConfig:
    """The config of a muP decoder whose `mixer_types` says for each layer which mixer it has."""
    base = minicpm.parse(raw)
    softmax = _read_softmax(raw, base.layers[0].mixer)
    lightning = _read_lightning(raw, softmax)
    layers = tuple(
        replace(layer, mixer=lightning if word in _LIGHTNING else softmax)
        for layer, word in zip(base.layers, _read_words(raw, base.layers), strict=True)
    )
    rope = _fitted(raw, base.rope, softmax, lightning)
    return replace(base, family="minicpm-sala", layers=layers, rope=rope)


def _read_words(raw: RawConfig, layers: tuple[LayerConfig, ...]) -> tuple[str, ...]:
    """One word per layer; of a refused list as many as there are layers."""
    words = raw.texts("mixer_types")
    known = (_SOFTMAX, *_LIGHTNING)
    unknown = {word: words.index(word) for word in words if word not in known}
    for word, layer in unknown.items():
        raw.problem(f"mixer_types names {word!r} for layer {layer}, which is not one of {', '.join(known)}")
    if raw.sound("mixer_types", "num_hidden_layers") and len(words) != len(layers):
        raw.problem(f"mixer_types names {len(words)} layers, where num_hidden_layers is {len(layers)}")
    return (words + (_SOFTMAX,) * len(layers))[: len(layers)]


def _read_softmax(raw: RawConfig, mixer: Mixer) -> Mixer:
    """The mixer of the plain family with this family's rope and gate."""
    rotary = raw.boolean("attn_use_rope", False)
    gated = raw.boolean("attn_use_output_gate", True)
    match mixer:
        case GQA():
            return replace(mixer, rotary=rotary, gated=gated)
        case InfLLM():
            return replace(mixer, attention=replace(mixer.attention, rotary=rotary, gated=gated))
    raise AssertionError(f"the plain family has softmax attention, not {mixer}")


def _read_lightning(raw: RawConfig, softmax: Mixer) -> Lightning:
    heads = raw.integer("lightning_nh", softmax.heads)
    kv_heads = raw.integer("lightning_nkv", heads)
    head_dim = raw.integer("lightning_head_dim", softmax.head_dim)
    rotary = raw.boolean("lightning_use_rope", True)
    raw.expect("lightning_layerwise_decay", (False,), "a decay that depends on the layer is not known here")
    if raw.sound("lightning_nh", "lightning_nkv") and heads % kv_heads:
        raw.problem(f"lightning_nh {heads} is not a multiple of lightning_nkv {kv_heads}")
    if raw.sound("lightning_head_dim") and rotary and head_dim % 2 and raw.has("lightning_head_dim"):
        raw.problem(f"lightning_head_dim {head_dim} is odd, rotary embedding needs pairs")
    return Lightning(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=_scale(raw.text("lightning_scale", "1/sqrt(d)"), head_dim),
        rotary=rotary,
        qk_norm=raw.boolean("qk_norm", True),
        output_norm=raw.boolean("use_output_norm", True),
        gated=raw.boolean("use_output_gate", True),
    )


def _scale(word: str, head_dim: int) -> float:
    """The published code knows two words and leaves the queries as they are for all others."""
    scales = {"1/sqrt(d)": 1 / math.sqrt(head_dim), "1/d": 1 / head_dim}
    return scales.get(word, 1.0)


def _fitted(raw: RawConfig, rope: Rope, softmax: Mixer, lightning: Lightning) -> Rope:
    """The one rope of the model, as wide as the heads that use it."""
    if not lightning.rotary or lightning.head_dim == rope.dim:
        return rope
    both = raw.boolean("attn_use_rope", False)
    if both or isinstance(rope, LongRope):
        raw.problem(
            f"lightning_head_dim {lightning.head_dim} and head_dim {softmax.head_dim} need ropes of two "
            "widths, where one is described"
        )
    return replace(rope, dim=lightning.head_dim)
