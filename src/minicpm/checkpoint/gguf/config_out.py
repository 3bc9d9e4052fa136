"""What llama.cpp must know of a model, as metadata; models that it would compute wrongly are refused."""

from collections.abc import Iterator, Mapping

from minicpm.checkpoint.gguf.names import LLAMA, LONG_FACTORS, MINICPM, MINICPM3, SHORT_FACTORS
from minicpm.checkpoint.gguf.values import Typed, f32, string, u32
from minicpm.config import (
    GQA,
    MLA,
    Dense,
    DynamicNTKRope,
    FATReLU,
    InfLLM,
    LinearRope,
    LongRope,
    ModelConfig,
    MoE,
    NextToken,
)
from minicpm.errors import BadInput

_LLAMA_FAMILIES = ("minicpm5", "minicpm-llama")
_FIXED = "llama.cpp has 12, 1.4 and 256 built in for this architecture, and no keys for others"


def architecture_for(config: ModelConfig) -> str:
    """The architecture by which llama.cpp computes this model.

    Raises BadInput, saying what works instead, for a model that it does not know or would compute wrongly.
    """
    if reason := _refused(config):
        raise BadInput(
            f"A model of the family {config.family} cannot become a GGUF file: {reason}. Use it here, or let "
            "vLLM or SGLang read it as safetensors; quantized for those it can become `--to gptq` or `awq`."
        )
    if config.family in _LLAMA_FAMILIES:
        return LLAMA
    return MINICPM3 if isinstance(config.layers[0].mixer, MLA) else MINICPM


def _refused(config: ModelConfig) -> str:
    """Why llama.cpp cannot compute the model; empty when it can."""
    return next((reason for applies, reason in _limits(config) if applies), "")


def _limits(config: ModelConfig) -> Iterator[tuple[bool, str]]:
    mixers = [layer.mixer for layer in config.layers]
    plain = [mixer.attention if isinstance(mixer, InfLLM) else mixer for mixer in mixers]
    ffns = [layer.ffn for layer in config.layers]
    lightning = not all(isinstance(mixer, GQA | MLA) for mixer in plain)
    odd = any(isinstance(mixer, GQA) and (mixer.gated or not mixer.rotary) for mixer in plain)
    fatrelu = isinstance(ffns[0], Dense) and isinstance(ffns[0].act, FATReLU)
    yield not isinstance(config.head, NextToken), "llama.cpp has no such head for this architecture"
    yield config.vision is not None, "it sees images, and llama.cpp knows no such tower for it"
    yield lightning, "llama.cpp has no lightning attention as this model mixes it in"
    yield odd, "llama.cpp has no attention with an output gate or without rotation for it"
    yield len(set(plain)) > 1 or len(set(ffns)) > 1, "its layers differ from each other"
    yield fatrelu, "llama.cpp computes its feed-forward with SiLU, and it was trained with FATReLU"
    scales = _other_scales(config)
    yield bool(scales), scales


def _other_scales(config: ModelConfig) -> str:
    if not isinstance(config.layers[0].mixer, MLA):
        return ""
    depth = config.residual_scale * len(config.layers) ** 0.5
    base = config.hidden / config.logit_scale
    if (config.embed_scale, round(depth, 6), round(base, 6)) == (12, 1.4, 256):
        return ""
    return f"its scales are {config.embed_scale:g}, {depth:g} and {base:g}: {_FIXED}"


def config_metadata(config: ModelConfig) -> dict[str, Typed]:
    """The keys of `architecture_for` this model, without the tables of LongRoPE, which are tensors."""
    architecture = architecture_for(config)
    first = config.layers[0]
    values = {
        "context_length": u32(config.context),
        "embedding_length": u32(config.hidden),
        "block_count": u32(len(config.layers)),
        "feed_forward_length": u32(first.ffn.intermediate),
        "attention.head_count": u32(first.mixer.heads),
        "attention.head_count_kv": u32(first.mixer.kv_heads),
        "attention.layer_norm_rms_epsilon": f32(config.norm_eps),
        "vocab_size": u32(config.vocab),
        "rope.dimension_count": u32(config.rope.dim),
        **_attention(config),
        **_experts(config),
        **_rope(config),
    }
    if architecture == MINICPM:
        values |= _scales(config)
    return {f"{architecture}.{key}": value for key, value in values.items()}


def _scales(config: ModelConfig) -> dict[str, Typed]:
    return {
        "embedding_scale": f32(config.embed_scale),
        "residual_scale": f32(config.residual_scale),
        "logit_scale": f32(config.logit_scale),
    }


def _attention(config: ModelConfig) -> dict[str, Typed]:
    mixer = config.layers[0].mixer
    if isinstance(mixer, MLA):
        return {
            "attention.q_lora_rank": u32(mixer.q_rank),
            "attention.kv_lora_rank": u32(mixer.kv_rank),
            "attention.key_length": u32(mixer.head_dim),
            "attention.value_length": u32(mixer.value),
        }
    return {"attention.key_length": u32(mixer.head_dim), "attention.value_length": u32(mixer.head_dim)}


def _experts(config: ModelConfig) -> dict[str, Typed]:
    ffn = config.layers[0].ffn
    if not isinstance(ffn, MoE):
        return {}
    return {"expert_count": u32(ffn.experts), "expert_used_count": u32(ffn.chosen)}


def _rope(config: ModelConfig) -> dict[str, Typed]:
    match rope := config.rope:
        case LongRope():
            values = {
                "rope.freq_base": f32(rope.theta),
                "rope.scaling.type": string("longrope"),
                "rope.scaling.original_context_length": u32(rope.original),
            }
            attention = {"rope.scaling.attn_factor": f32(rope.attention_scale)}
            return values | (attention if rope.attention_scale != 1 else {})
        case LinearRope():
            scaling = {"rope.scaling.type": string("linear"), "rope.scaling.factor": f32(rope.factor)}
            return {"rope.freq_base": f32(rope.theta)} | scaling
        case DynamicNTKRope():
            # llama.cpp has no base that follows the length; this is the one of the whole context.
            return {"rope.freq_base": f32(rope.base)}
    return {"rope.freq_base": f32(rope.theta)}


def rope_tables(config: ModelConfig) -> Mapping[str, tuple[float, ...]]:
    """The tensors that hold the factors of LongRoPE, by name; none for another rope."""
    if not isinstance(config.rope, LongRope):
        return {}
    return {LONG_FACTORS: config.rope.long, SHORT_FACTORS: config.rope.short}


def losses(config: ModelConfig) -> list[str]:
    """What llama.cpp leaves out of the model, in words for a user."""
    notes = []
    if any(isinstance(layer.mixer, InfLLM) for layer in config.layers):
        notes.append("llama.cpp attends to all tokens, where this model may attend to chosen blocks only.")
    if isinstance(config.rope, DynamicNTKRope):
        notes.append(f"The context is {config.context:,} tokens there: llama.cpp does not extend it.")
    return notes
