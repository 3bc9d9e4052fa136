"""How many bytes a model's weights and cache take, from its config alone."""

from minicpm.config.dtypes import BYTES
from minicpm.config.model import LayerConfig, ModelConfig, parameter_count

PAGE_TOKENS = 64


def weight_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of all weights held as `dtype`."""
    return parameter_count(config) * BYTES[dtype]


def cache_bytes(config: ModelConfig, tokens: int, dtype: str) -> int:
    """Bytes of the cache of one sequence of `tokens` tokens, whole pages counted."""
    pages = -(-tokens // PAGE_TOKENS)
    return pages * page_bytes(config, dtype)


def page_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of one page of 64 tokens over all layers."""
    return PAGE_TOKENS * BYTES[dtype] * sum(map(_values_per_token, config.layers))


def _values_per_token(layer: LayerConfig) -> int:
    return 2 * layer.mixer.kv_heads * layer.mixer.head_dim
