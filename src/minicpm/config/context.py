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
    if tokens <= config.context:
        return replace(config, context=tokens)
    return replace(config, context=tokens, rope=_extended_rope(config, tokens))


def reach(config: ModelConfig) -> int:
    """The largest context `extend` accepts."""
    match config.rope:
        case DynamicNTKRope() as rope:
            return int(rope.original * max(rope.factor, 1))
        case LongRope() as rope if _same_lists(rope) and rope.short in _EXTENSIONS:
            return _EXTENSIONS[rope.short][1]
    return config.context


def _extended_rope(config: ModelConfig, tokens: int) -> Rope:
    limit = reach(config)
    if tokens > limit:
        raise BadParameter(
            f"A context of {tokens} tokens was asked for; this model reaches {limit}"
            + (f" ({config.context} natively)" if limit != config.context else "")
            + f" and there is no published way beyond. Ask for at most {limit}."
        )
    match config.rope:
        case DynamicNTKRope() as rope:
            return replace(rope, length=tokens)
        case LongRope() as rope:
            table = _EXTENSIONS[rope.short][0]
            return replace(rope, short=table, long=table)
        case rope:
            return rope


def _same_lists(rope: LongRope) -> bool:
    return rope.short == rope.long
