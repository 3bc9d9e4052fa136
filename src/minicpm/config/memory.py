"""How many bytes a model's weights and cache take, from its config alone."""

from minicpm.config.dtypes import BYTES
from minicpm.config.kv import AUTO, vector_bytes
from minicpm.config.mixers import PAGE_TOKENS, Mixer
from minicpm.config.model import ModelConfig, parameter_count

STATE_MARKS = 16
"""Earlier states that a recurrent layer keeps to go back to, over all sequences."""


def weight_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of all weights held as `dtype`."""
    return parameter_count(config) * BYTES[dtype]


def cache_bytes(config: ModelConfig, tokens: int, dtype: str, kv: str = AUTO) -> int:
    """Bytes of the cache of one sequence of `tokens` tokens: whole pages, its state and its marks.

    Keys and values are held as `kv` says, what else there is as `dtype`.
    """
    if not config.causal:
        return 0  # later tokens change what earlier ones give, so nothing is kept
    pages = -(-tokens // PAGE_TOKENS)
    states = 1 + min(pages - 1, STATE_MARKS)
    return pages * page_bytes(config, dtype, kv) + states * state_bytes(config)


def page_bytes(config: ModelConfig, dtype: str, kv: str = AUTO) -> int:
    """Bytes of one page of 64 tokens over all layers."""
    return sum(_page_bytes(layer.mixer, dtype, kv) for layer in config.layers)


def _page_bytes(mixer: Mixer, dtype: str, kv: str) -> int:
    others = mixer.page_values - mixer.page_vectors * mixer.head_dim
    return mixer.page_vectors * vector_bytes(mixer.head_dim, dtype, kv) + others * BYTES[dtype]


def state_bytes(config: ModelConfig) -> int:
    """Bytes of one recurrent state over all layers, the same however long the sequence; it is float32."""
    return BYTES["float32"] * sum(layer.mixer.state_values for layer in config.layers)
