"""What a model folder is, as one document: read from its small files, and of weights only ternary ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.config import (
    MLA,
    Dense,
    Embedding,
    FATReLU,
    FeedForward,
    InfLLM,
    ModelConfig,
    MoE,
    NextToken,
    Relevance,
    extend,
    parameter_count,
    reach,
    resolve_dtype,
)
from minicpm.config.dtypes import BITS
from minicpm.config.holding import held_bytes
from minicpm.config.kv import INT8, has_keys, why_not_int8
from minicpm.config.memory import cache_bytes
from minicpm.config.rope import rope_words
from minicpm.config.sparse import chosen_blocks, dense_positions

if TYPE_CHECKING:
    from minicpm.checkpoint import Checkpoint
    from minicpm.checkpoint.packed_source import PackedSource
    from minicpm.text.format import ChatFormat

Document = dict[str, Any]
_CONTEXTS = (4096, 32768, 131072)
_CHAT = "chat"


def describe_config(raw: Mapping[str, Any], contexts: Sequence[int] | None = None) -> Document:
    """All that follows from a config.json alone; memory at `contexts`, or at usual ones within reach."""
    from minicpm.models.registry import family, parse

    config = parse(raw)
    known = family(config.family)
    first = config.layers[0]
    return {
        "family": config.family,
        "title": known.title,
        "use": use(config),
        "architecture": raw.get("architectures"),
        "layers": len(config.layers),
        "hidden": config.hidden,
        "heads": first.mixer.heads,
        "kv_heads": first.mixer.kv_heads,
        "head_dim": first.mixer.head_dim,
        "intermediate": first.ffn.intermediate,
        "feed_forward": feed_forward_text(first.ffn),
        "vocabulary": config.vocab,
        "tied": config.tied,
        "parameters": parameter_count(config),
        "dtype": config.dtype,
        "context": config.context,
        "reach": reach(config),
        "rope": rope_words(config.rope),
        "attention": attention_text(config),
        "eos_ids": list(config.eos),
        "memory": [_memory(config, tokens) for tokens in contexts or _usual(config)],
        "rounded": _rounded(config),
        "notes": list(config.notes),
    }


def feed_forward_text(ffn: FeedForward) -> str:
    """What sets a feed-forward apart: experts, or an activation with exact zeros."""
    match ffn:
        case MoE():
            return f"{ffn.experts} experts, {ffn.chosen} per token"
        case Dense(act=FATReLU(threshold)):
            return f"FATReLU above {threshold:g}"
        case Dense():
            return ""


def attention_text(config: ModelConfig) -> str:
    """What sets attention apart: latents, or which layers attend to chosen blocks only and from when on."""
    first = config.layers[0].mixer
    if isinstance(first, MLA):
        return f"latent, {first.kv_rank} + {first.rope} numbers remembered per token and layer"
    sparse = [layer.mixer.sparse for layer in config.layers if isinstance(layer.mixer, InfLLM)]
    if not sparse:
        return ""
    return (
        f"sparse in {len(sparse)} of {len(config.layers)} layers, {chosen_blocks(sparse[0])} blocks of "
        f"{sparse[0].block_size} tokens from token {dense_positions(sparse[0]) + 1:,} on"
    )


def describe_folder(folder: Path, contexts: Sequence[int] | None = None) -> Document:
    """`describe_config`, and what the folder's other files say."""
    from minicpm.checkpoint import open_checkpoint
    from minicpm.cli.licence import licence_of
    from minicpm.engine.defaults import end_ids

    checkpoint = open_checkpoint(folder)
    document = describe_config(checkpoint.raw_config, contexts)
    described = {
        "path": str(folder),
        **document,
        **_files(checkpoint),
        **_held(checkpoint, document),
        "ternary": _ternary(checkpoint),
        "licence": licence_of(checkpoint.path),
    }
    if document["use"] != _CHAT:
        return described
    chat = chat_format(checkpoint.path, document["family"])
    ends = {*document["eos_ids"], *end_ids(checkpoint.generation), *chat.tokenizer.eos_ids}
    return {
        **described,
        "eos_ids": sorted(ends),
        "tokenizer_size": chat.tokenizer.vocab_size,
        "template_hash": chat.template_hash,
        "template_origin": chat.template_origin,
        "tool_dialect": chat.dialect,
    }


def needed_codes(checkpoint: "Checkpoint", config: ModelConfig) -> "dict[str, PackedSource]":
    """The matrices in codes that a model needs: not a head that its embedding takes the place of."""
    unused = ("lm_head.weight",) if config.tied else ()
    return {name: source for name, source in checkpoint.packed.items() if not name.endswith(unused)}


def use(config: ModelConfig) -> str:
    """The verb that a model is for, by what it makes of its hidden states."""
    match config.head:
        case NextToken():
            return _CHAT
        case Embedding():
            return "embed"
        case Relevance():
            return "rerank"


def chat_format(folder: Path, family_name: str) -> "ChatFormat":
    """The chat format of a folder, its own template or the family's."""
    from minicpm.models.registry import family
    from minicpm.text.format import ChatFormat

    known = family(family_name)
    return ChatFormat.from_folder(folder, template=known.template, dialect=known.dialect)


def _held(checkpoint: "Checkpoint", document: Document) -> Document:
    """Of weights in codes what they are, and what memory they take instead of plain ones."""
    from minicpm.cli.codes import describe_codes
    from minicpm.models.registry import parse

    quantized = describe_codes(checkpoint)
    if quantized is None:
        return {"quantized": None}
    config = parse(checkpoint.raw_config)
    memory = [_memory(config, at["context"], checkpoint) for at in document["memory"]]
    return {"quantized": quantized, "memory": memory, "rounded": None}


def _files(checkpoint: "Checkpoint") -> Document:
    return {
        "bytes": checkpoint.total_bytes,
        "files": len(checkpoint.files),
        "tensors": len(checkpoint.tensors) + len(checkpoint.packed),
        "stored_as": sorted({info.dtype for info in checkpoint.tensors.values()})
        + sorted({source.format for source in checkpoint.packed.values()}),
    }


def _ternary(checkpoint: "Checkpoint") -> Document | None:
    """How the weights pack if they are ternary, for which they are read; a few bytes rule most others out."""
    from minicpm.checkpoint.probing import may_be_ternary

    if not may_be_ternary(checkpoint):
        return None
    from minicpm.checkpoint.ternary import packing_of_checkpoint

    packing = packing_of_checkpoint(checkpoint)
    if packing is None:
        return None
    return {
        "group": packing.group,
        "bits_per_weight": packing.bits_per_weight,
        "packed_bytes": checkpoint.total_bytes - packing.nbytes_before + packing.nbytes,
        "plain_bytes": checkpoint.total_bytes,
    }


def _rounded(config: ModelConfig) -> Document | None:
    """What weights rounded while loading would take; None for models that are only loaded as they are."""
    if use(config) != _CHAT:
        return None
    sizes = {weights: held_bytes(config, "bfloat16", weights) for weights in BITS}
    count = parameter_count(config)
    return {name: {"bytes": size, "bits_per_weight": 8 * size / count} for name, size in sizes.items()}


def _usual(config: ModelConfig) -> list[int]:
    """The native context, and usual ones below the model's reach."""
    most = reach(config)
    return sorted({config.context, most, *(tokens for tokens in _CONTEXTS if tokens < most)})


def _memory(config: ModelConfig, tokens: int, checkpoint: "Checkpoint | None" = None) -> Document:
    from minicpm.checkpoint import plan_memory
    from minicpm.checkpoint.plan import codes_plan

    plan = plan_memory(extend(config, tokens), resolve_dtype("auto", config.dtype), tokens)
    plan = codes_plan(plan, config, {} if checkpoint is None else needed_codes(checkpoint, config))
    return {
        "context": tokens,
        "dtype": plan.dtype,
        "held_as": plan.held_as,
        "weight_bytes": plan.weight_bytes,
        "cache_bytes": plan.cache_bytes,
        "int8_cache_bytes": _int8_cache_bytes(extend(config, tokens), plan.dtype, tokens),
        "needed_bytes": plan.needed_bytes,
        "fits": plan.fits,
    }


def _int8_cache_bytes(config: ModelConfig, dtype: str, tokens: int) -> int | None:
    """Bytes of the cache with keys and values in 8 bits; None where no kernels would read them."""
    kept = config.causal and any(has_keys(layer.mixer) for layer in config.layers)
    if not kept or dtype != "bfloat16" or why_not_int8(config) is not None:
        return None
    return cache_bytes(config, tokens, dtype, INT8)
