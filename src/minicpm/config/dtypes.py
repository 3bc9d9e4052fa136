"""Names of number formats and their sizes, without torch."""

from minicpm.errors import BadParameter

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
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
    """Raise BadParameter unless `weights` is a way to hold ternary weights: plain or packed."""
    if weights not in ("plain", "packed"):
        raise BadParameter(f"weights is {weights!r}. Use plain or packed.")
