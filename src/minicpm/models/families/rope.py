"""Reads the rope part of a raw config in all its published spellings."""

from minicpm.config import DefaultRope, DynamicNTKRope, LinearRope, LongRope, RawConfig, Rope
from minicpm.config.rope import long_rope_attention_scale

_LONG = ("longrope", "su")


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
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    match kind:
        case "default":
            return DefaultRope(theta, dim)
        case "linear":
            return LinearRope(theta, dim, scaling.number("factor"))
        case "dynamic":
            original = scaling.integer("original_max_position_embeddings", context)
            return DynamicNTKRope(theta, dim, scaling.number("factor"), original, context)
        case _ if kind in _LONG:
            return _read_long(scaling, theta=theta, dim=dim, context=context)
    scaling.problem(f"rope type {kind!r} is not one of default, linear, dynamic, longrope")
    return DefaultRope(theta, dim)


def _read_long(scaling: RawConfig, *, theta: float, dim: int, context: int) -> LongRope:
    original = scaling.integer("original_max_position_embeddings", context, least=2)
    length = context
    if scaling.has("factor"):
        length = round(original * scaling.number("factor"))
    scale = scaling.number("attention_factor", long_rope_attention_scale(length, original))
    return LongRope(
        theta,
        dim,
        short=scaling.numbers("short_factor", dim // 2),
        long=scaling.numbers("long_factor", dim // 2),
        original=original,
        length=context,
        attention_scale=scale,
    )
