"""What a GGUF file says of a model, as the config.json of the published layout."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minicpm.checkpoint.files import readable, shown
from minicpm.checkpoint.gguf.metadata import Keys, architecture_of, neat_list
from minicpm.checkpoint.gguf.names import LLAMA, LONG_FACTORS, MINICPM, MINICPM3, SHORT_FACTORS
from minicpm.checkpoint.gguf.reading import GgufFile, GgufTensor
from minicpm.errors import MalformedFile

Raw = dict[str, Any]

_LONGEST = 2**31
_TABLE_BYTES = 1 << 16
_MOST_LAYERS = 4096
# llama.cpp's for files of `minicpm` without keys, and the only ones it has for `minicpm3`.
_EMBEDDING_SCALE, _DEPTH_SCALE, _LOGIT_BASE = 12, 1.4, 256
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def raw_config(file: GgufFile) -> Raw:
    """A config.json for the model in this file, which `models.registry.parse` reads.

    Raises BadConfig with every key that is missing or wrong, UnreadConfig with those that nothing reads, and
    as `architecture_of`.
    """
    architecture = architecture_of(file)
    keys = Keys(file.metadata, architecture, file.path)
    raw = {
        **_shared(keys, file),
        **_READERS[architecture](keys),
        **_rope(keys, file),
        **_tokens(file),
        "torch_dtype": _dtype(file.tensors),
    }
    keys.finish()
    name = file.metadata.get("general.name")
    return raw | ({"_name_or_path": name} if isinstance(name, str) else {})


def _shared(keys: Keys, file: GgufFile) -> Raw:
    keys.ignore("tensor_data_layout", "rope.scaling.finetuned")
    # The matrices say themselves how many rows they have, and whether there are one or two.
    keys.ignore("vocab_size", "tie_lm_head")
    embedding = file.tensors.get("token_embd.weight")
    return {
        "hidden_size": keys.integer("embedding_length"),
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_hidden_layers": keys.integer("block_count", most=_MOST_LAYERS),
        "num_attention_heads": keys.integer("attention.head_count"),
        "num_key_value_heads": keys.integer("attention.head_count_kv", keys.integer("attention.head_count")),
        "max_position_embeddings": keys.integer("context_length", most=_LONGEST),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "vocab_size": 1 if embedding is None else embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_act": "silu",
    }


def _minicpm(keys: Keys) -> Raw:
    hidden, layers = keys.integer("embedding_length"), keys.integer("block_count", most=_MOST_LAYERS)
    depth = _DEPTH_SCALE
    if keys.has("residual_scale"):
        depth = _depth_scale(keys.number("residual_scale"), layers)
    # Where there is no key, llama.cpp's own default is the reciprocal of what its converter writes; what is
    # meant is to divide by hidden / 256.
    logits = keys.number("logit_scale", hidden / _LOGIT_BASE)
    return {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "scale_emb": _whole(keys.number("embedding_scale", _EMBEDDING_SCALE)),
        "scale_depth": depth,
        "dim_model_base": _whole(hidden / logits),
        **_heads(keys),
        **_experts(keys),
    }


def _llama(keys: Keys) -> Raw:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        **_heads(keys),
    }


def _minicpm3(keys: Keys) -> Raw:
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    width, rotary = keys.integer("attention.key_length"), keys.integer("rope.dimension_count")
    value = keys.integer("attention.value_length", max(hidden // heads, 1))
    if width <= rotary:
        keys.problem(f"minicpm3.attention.key_length {width} leaves nothing beside the {rotary} rotated")
    return {
        "architectures": ["MiniCPM3ForCausalLM"],
        "model_type": "minicpm3",
        "scale_emb": _EMBEDDING_SCALE,
        "scale_depth": _DEPTH_SCALE,
        "dim_model_base": _LOGIT_BASE,
        "q_lora_rank": keys.integer("attention.q_lora_rank"),
        "kv_lora_rank": keys.integer("attention.kv_lora_rank"),
        "qk_nope_head_dim": max(width - rotary, 1),
        "qk_rope_head_dim": rotary,
    } | ({"v_head_dim": value} if value * heads != hidden else {})


_READERS: Mapping[str, Callable[[Keys], Raw]] = {MINICPM: _minicpm, MINICPM3: _minicpm3, LLAMA: _llama}


def _heads(keys: Keys) -> Raw:
    """The width of a head where it is not hidden / heads; keys, values and rotation have the same."""
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    usual = max(hidden // heads, 1)
    width = keys.integer("attention.key_length", usual)
    keys.expect("attention.value_length", width, f"keys are {width} wide")
    keys.expect("rope.dimension_count", width, f"heads are {width} wide and rotated as a whole")
    return {} if width * heads == hidden else {"head_dim": width}


def _experts(keys: Keys) -> Raw:
    if not keys.has("expert_count"):
        keys.ignore("expert_used_count")
        return {}
    return {
        "num_experts": keys.integer("expert_count"),
        "num_experts_per_tok": keys.integer("expert_used_count"),
    }


def _rope(keys: Keys, file: GgufFile) -> Raw:
    raw: Raw = {"rope_theta": keys.number("rope.freq_base", 10000.0)}
    tables = [file.tensors.get(name) for name in (SHORT_FACTORS, LONG_FACTORS)]
    kind = keys.text("rope.scaling.type", "none")
    if all(tables):
        return raw | {"rope_scaling": _longrope(keys, file)}
    if kind == "longrope" or any(tables):
        keys.problem(f"rope.scaling.type is {kind!r}, with only a part of {SHORT_FACTORS}, {LONG_FACTORS}")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    keys.ignore("rope.scaling.original_context_length")
    keys.expect("rope.scaling.attn_factor", 1.0, "only longrope has one")
    if kind not in ("none", "linear", "longrope"):
        keys.problem(f"rope.scaling.type is {kind!r}: only none, linear and longrope are known")
    return raw | ({"rope_scaling": {"rope_type": "linear", "factor": factor}} if factor != 1 else {})


def _longrope(keys: Keys, file: GgufFile) -> Raw:
    context = keys.integer("context_length", most=_LONGEST)
    keys.expect("rope.scaling.factor", 1.0, "the factors of longrope are tensors")
    scaling: Raw = {
        "rope_type": "longrope",
        "short_factor": _table(file.tensors[SHORT_FACTORS]),
        "long_factor": _table(file.tensors[LONG_FACTORS]),
        "original_max_position_embeddings": keys.integer(
            "rope.scaling.original_context_length", context, most=_LONGEST
        ),
        # llama.cpp has 1 where nothing is said, whatever the lengths.
        "attention_factor": keys.number("rope.scaling.attn_factor", 1.0),
    }
    if scaling["attention_factor"] == 1 and scaling["original_max_position_embeddings"] >= context:
        del scaling["attention_factor"]
    return scaling


def _table(tensor: GgufTensor) -> list[float]:
    """The factors in a small float32 tensor."""
    if tensor.type.name != "F32" or len(tensor.shape) != 1 or tensor.nbytes > _TABLE_BYTES:
        raise MalformedFile(
            f"{shown(str(tensor.file))} holds {tensor.name} as {tensor.type.name} of shape "
            f"{list(tensor.shape)}, where a short list of float32 is needed. Convert the model again."
        )
    with readable(tensor.file), tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        return neat_list(np.frombuffer(file.read(tensor.nbytes), "<f4").tolist())


def _tokens(file: GgufFile) -> Raw:
    """The ids that begin, end and fill texts; more than one may end them."""
    keys = Keys(file.metadata, "tokenizer.ggml", file.path)
    ends = [keys.token(name) for name in ("eos_token_id", "eot_token_id", "eom_token_id")]
    found = list(dict.fromkeys(token for token in ends if token is not None))
    raw = {"bos_token_id": keys.token("bos_token_id"), "pad_token_id": keys.token("padding_token_id")}
    keys.require_sound()
    return raw | ({"eos_token_id": found if len(found) > 1 else found[0]} if found else {})


def _dtype(tensors: Mapping[str, GgufTensor]) -> str:
    """The widest of its matrices that are not packed; packed ones are those of bfloat16 models."""
    types = {tensor.type.name for tensor in tensors.values() if len(tensor.shape) > 1}
    # Routers stay in float32 beside matrices of any type.
    kinds = types - {"F32"} or types
    return _DTYPES.get(kinds.pop(), "bfloat16") if len(kinds) == 1 else "bfloat16"


def _depth_scale(residual: float, layers: int) -> float:
    """scale_depth of a file that has scale_depth / sqrt(layers), with as few digits as give the same."""
    exact = residual * math.sqrt(layers)
    shorter = (round(exact, digits) for digits in range(12))
    return next((c for c in shorter if np.float32(c / math.sqrt(layers)) == np.float32(residual)), exact)


def _whole(value: float) -> float:
    """The same number, as an int where it is one."""
    return int(value) if value == int(value) else value
