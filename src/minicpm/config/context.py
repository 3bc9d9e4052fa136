"""Raises a model's context length where a published way exists, and refuses with numbers otherwise."""

from dataclasses import replace

from minicpm.config import rope_tables
from minicpm.config.model import ModelConfig
from minicpm.config.rope import DynamicNTKRope, LongRope, Rope
from minicpm.errors import BadParameter

# Native table -> (extended table, its length). Both leave the attention scale at 1.
_EXTENSIONS: dict[tuple[float, ...], tuple[tuple[float, ...], int]] = {
    rope_tables.MINICPM4_8B: (rope_tables.MINICPM4_8B_128K, 131072),
    rope_tables.MINICPM41_8B: (rope_tables.MINICPM41_8B_128K, 131072),
}


def extend(config: ModelConfig, tokens: int) -> ModelConfig:
    """The config for sequences of up to `tokens` tokens.

    Within the native context only the limit changes. Beyond it the published 128K table of
    MiniCPM4-8B / 4.1-8B or the model's own dynamic NTK scaling is applied; a model with neither
    raises BadParameter.
    """
    if tokens < 1:
        raise BadParameter(f"A context of {tokens} tokens was asked for; it must be at least 1.")
    limit = reach(config)
    if tokens > limit:
        raise BadParameter(_too_long(tokens, limit, config.context))
    return replace(config, context=tokens, rope=_rope_for(config, tokens))


def reach(config: ModelConfig) -> int:
    """The largest context `extend` accepts."""
    match config.rope:
        case DynamicNTKRope() as rope:
            return max(config.context, int(rope.original * rope.factor))
        case LongRope() as rope if rope.short == rope.long and rope.short in _EXTENSIONS:
            return max(config.context, _EXTENSIONS[rope.short][1])
    return config.context


def _rope_for(config: ModelConfig, tokens: int) -> Rope:
    match config.rope:
        case DynamicNTKRope() as rope:
            return replace(rope, length=tokens)
        case LongRope() as rope if tokens > config.context:
            table = _EXTENSIONS[rope.short][0]
            return replace(rope, short=table, long=table)
        case rope:
            return rope


def _too_long(tokens: int, limit: int, native: int) -> str:
    natively = f" ({native} natively)" if limit != native else ""
    return (
        f"A context of {tokens} tokens was asked for; this model reaches {limit}{natively} and there is no "
        f"published way beyond. Ask for at most {limit}."
    )
