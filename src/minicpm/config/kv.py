"""How the keys and values of softmax attention are held in a cache."""

from minicpm.config.dtypes import BYTES
from minicpm.config.mixers import GQA, InfLLM, Mixer
from minicpm.config.model import ModelConfig
from minicpm.errors import BadParameter

AUTO, INT8 = "auto", "int8"
KV = (AUTO, INT8)
"""In the cache's dtype, or in 8 bits with a float32 scale per token and head."""
_SCALE_BYTES = 4
_LANES = 16  # a head of the kernels' pages is as wide as a multiple of this


def check_kv(kv: str) -> None:
    """Raise BadParameter unless `kv` is a way to hold keys and values."""
    if kv not in KV:
        raise BadParameter(f"kv is {kv!r}. Use one of: {', '.join(KV)}.")


def vector_bytes(width: int, dtype: str, kv: str = AUTO) -> int:
    """Bytes of a key or value of one head in a cache of this dtype."""
    return width * BYTES[dtype] if kv == AUTO else width + _SCALE_BYTES


def has_keys(mixer: Mixer) -> bool:
    """Whether a mixer keeps keys and values; others keep latents or a state, which stay as they are."""
    return isinstance(mixer, GQA | InfLLM)


def why_not_int8(config: ModelConfig) -> str | None:
    """Why a model's keys and values cannot be held in 8 bits whatever computes them; None when they can."""
    widths = {layer.mixer.head_dim for layer in config.layers if has_keys(layer.mixer)}
    odd = sorted(width for width in widths if width % _LANES)
    if odd:
        return f"its heads are {odd[0]} wide, which is no multiple of {_LANES}"
    return None


def kv_notes(config: ModelConfig, kv: str) -> list[str]:
    """What a user should know of this choice."""
    others = sum(not has_keys(layer.mixer) for layer in config.layers)
    if kv == AUTO or not others:
        return []
    return [
        f"kv {kv} holds keys and values of softmax attention in 8 bits. {others} of {len(config.layers)} "
        "layers keep latents or a recurrent state instead, and those stay as they are."
    ]
