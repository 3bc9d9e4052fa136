"""Reads the rope part of a raw config in all its published spellings."""

from minicpm.config import DefaultRope, DynamicNTKRope, LinearRope, LongRope, RawConfig, Rope
from minicpm.config.rope import long_rope_attention_scale

_ALIASES = {"su": "longrope"}
_LONGEST = 2**31


def read_rope(raw: RawConfig, *, dim: int, context: int, default_theta: float = 10000.0) -> Rope:
    """The rope of a config with `rope_scaling` (keys `type` or `rope_type`) or `rope_parameters`.

    `dim` is the rotary width, `context` the config's max_position_embeddings.
    """
    theta = raw.number("rope_theta", default_theta)
    scaling = raw.child("rope_scaling")
    parameters = raw.child("rope_parameters")
    scaling = scaling or parameters
    if scaling is None:
        return DefaultRope(theta, dim)
    theta = scaling.number("rope_theta", theta)
    kind = _read_kind(scaling)
    match kind:
        case "default":
            return DefaultRope(theta, dim)
        case "linear":
            return LinearRope(theta, dim, scaling.number("factor"))
        case "dynamic":
            original = scaling.integer("original_max_position_embeddings", context, most=_LONGEST)
            if dim == 2:
                scaling.problem("rope type 'dynamic' needs heads wider than 2")
            return DynamicNTKRope(theta, dim, scaling.number("factor"), original, context)
        case "longrope":
            return _read_long(scaling, theta=theta, dim=dim, context=context)
    scaling.problem(f"rope type {kind!r} is not one of default, linear, dynamic, longrope")
    return DefaultRope(theta, dim)


def _read_kind(scaling: RawConfig) -> str:
    """The rope type, from whichever of its two keys is there; they may not contradict each other."""
    kinds = {_ALIASES.get(kind, kind) for key in ("rope_type", "type") if (kind := scaling.text(key, ""))}
    if len(kinds) > 1:
        scaling.problem(f"rope_type and type name different ropes, {' and '.join(sorted(kinds))}")
    return min(kinds, default="default")


def _read_long(scaling: RawConfig, *, theta: float, dim: int, context: int) -> LongRope:
    original = scaling.integer("original_max_position_embeddings", max(context, 2), least=2, most=_LONGEST)
    length = original * scaling.number("factor", context / original)
    scale = scaling.number("attention_factor", long_rope_attention_scale(length, original))
    count = dim // 2 or None  # a width of 1 stands for sizes that were refused
    return LongRope(
        theta,
        dim,
        short=scaling.numbers("short_factor", count),
        long=scaling.numbers("long_factor", count),
        original=original,
        length=context,
        attention_scale=scale,
    )
