"""Names of tensors in GGUF and as published, both ways, and which of them GGUF keeps in another row order."""

from dataclasses import dataclass

from minicpm.config import GQA, InfLLM, ModelConfig

MINICPM, MINICPM3, LLAMA = "minicpm", "minicpm3", "llama"
ARCHITECTURES = (MINICPM, MINICPM3, LLAMA)
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
"""Tables of LongRoPE, float32; a published model has them in its config."""

_WEIGHT = ".weight"
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
_EXPERT = {"ffn_gate": "w1", "ffn_up": "w3", "ffn_down": "w2"}
_STACKED = {f"{name}_exps": part for name, part in _EXPERT.items()}
_TOP_BACK = {published: name for name, published in _TOP.items()}
_LAYER_BACK = {published: name for name, published in _LAYER.items()}
_STACKED_BACK = {part: name for name, part in _STACKED.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a published tensor lies in a file: the tensor of this name, or one expert of those it stacks."""

    name: str
    expert: int | None = None


def place_of(published: str) -> Place | None:
    """The place that today's files give a published tensor; None for one they have no name for."""
    stem = published.removesuffix(_WEIGHT)
    if stem == published:
        return None
    if stem in _TOP_BACK:
        return Place(_TOP_BACK[stem] + _WEIGHT)
    match stem.split("."):
        case ["model", "layers", layer, "mlp", "experts", expert, part] if part in _STACKED_BACK:
            if layer.isdecimal() and expert.isdecimal():
                return Place(f"blk.{layer}.{_STACKED_BACK[part]}{_WEIGHT}", int(expert))
        case ["model", "layers", layer, *path] if layer.isdecimal() and ".".join(path) in _LAYER_BACK:
            return Place(f"blk.{layer}.{_LAYER_BACK['.'.join(path)]}{_WEIGHT}")
    return None


def published_names(name: str, experts: int) -> list[str] | None:
    """What a tensor of a file is published as: one name, or one per expert of a stack of so many.

    None for a name that no published model has.
    """
    stem = name.removesuffix(_WEIGHT)
    if stem == name:
        return None
    if stem in _TOP:
        return [_TOP[stem] + _WEIGHT]
    match stem.split("."):
        case ["blk", layer, kind] if layer.isdecimal() and kind in _STACKED:
            return [_expert(layer, str(expert), _STACKED[kind]) for expert in range(experts)]
        case ["blk", layer, kind] if layer.isdecimal() and kind in _LAYER:
            return [f"model.layers.{layer}.{_LAYER[kind]}{_WEIGHT}"]
        # Files from before the experts of a layer were stacked.
        case ["blk", layer, kind, expert] if layer.isdecimal() and expert.isdecimal() and kind in _EXPERT:
            return [_expert(layer, expert, _EXPERT[kind])]
    return None


def _expert(layer: str, expert: str, part: str) -> str:
    return f"model.layers.{layer}.mlp.experts.{expert}.{part}{_WEIGHT}"


def paired_heads(architecture: str, published: str, config: ModelConfig) -> int | None:
    """How many heads the rows of a published tensor make, if a file of this architecture keeps them paired.

    llama.cpp rotates rows 2i and 2i + 1 of a head together for `minicpm` and `llama`, where published
    weights have i and i + width / 2. None for tensors whose rows lie as published.
    """
    mixer = config.layers[0].mixer
    if architecture == MINICPM3 or not isinstance(mixer, GQA | InfLLM):
        return None
    if published.endswith(".self_attn.q_proj.weight"):
        return mixer.heads
    return mixer.kv_heads if published.endswith(".self_attn.k_proj.weight") else None
