"""Names of number formats and their sizes, without torch."""

from minicpm.errors import BadParameter

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BITS = {"int8": 8, "int4": 4}
"""Ways to hold weights that round them while loading, and the bits of each in the layers."""
ROUNDED_HEADS = (*BITS, "ternary")
"""Those that round the matrix that makes logits."""
HOLDINGS = ("plain", "packed", *ROUNDED_HEADS)
"""All ways to hold weights."""
_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32"}


def dtype_name(name: str) -> str:
    """The full name of a number format; raises BadParameter for one that is not known."""
    short = name.removeprefix("torch.")
    full = _ALIASES.get(short, short)
    if full not in BYTES:
        known = ", ".join([*BYTES, *_ALIASES])
        raise BadParameter(f"The dtype {name!r} is not known. Use one of: auto, {known}.")
    return full


def resolve_dtype(wanted: str, published: str) -> str:
    """`published` for "auto", else the full name of `wanted`."""
    return dtype_name(published) if wanted == "auto" else dtype_name(wanted)


def check_holding(weights: str) -> None:
    """Raise BadParameter unless `weights` is a way to hold weights."""
    if weights not in HOLDINGS:
        raise BadParameter(f"weights is {weights!r}. Use one of: {', '.join(HOLDINGS)}.")


def held_dtype(wanted: str, published: str, weights: str) -> str:
    """As `resolve_dtype`, for weights held this way: "auto" is bfloat16 where they are rounded.

    Raises BadParameter for any other beside rounded weights.
    """
    if weights not in ROUNDED_HEADS:
        return resolve_dtype(wanted, published)
    if wanted != "auto" and dtype_name(wanted) != "bfloat16":
        raise BadParameter(
            f"The dtype {dtype_name(wanted)} was asked for with {weights} weights, whose scales and all that "
            "is computed with them are bfloat16. Leave the dtype at auto, or load plain weights."
        )
    return "bfloat16"
