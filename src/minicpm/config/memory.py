"""How many bytes a model's weights and cache take, from its config alone."""

from minicpm.config.dtypes import BYTES
from minicpm.config.mixers import PAGE_TOKENS
from minicpm.config.model import ModelConfig, parameter_count

STATE_MARKS = 16
"""Earlier states that a recurrent layer keeps to go back to, over all sequences."""


def weight_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of all weights held as `dtype`."""
    return parameter_count(config) * BYTES[dtype]


def cache_bytes(config: ModelConfig, tokens: int, dtype: str) -> int:
    """Bytes of the cache of one sequence of `tokens` tokens: whole pages, its state and its marks."""
    if not config.causal:
        return 0  # later tokens change what earlier ones give, so nothing is kept
    pages = -(-tokens // PAGE_TOKENS)
    states = 1 + min(pages - 1, STATE_MARKS)
    return pages * page_bytes(config, dtype) + states * state_bytes(config)


def page_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of one page of 64 tokens over all layers."""
    return BYTES[dtype] * sum(layer.mixer.page_values for layer in config.layers)


def state_bytes(config: ModelConfig) -> int:
    """Bytes of one recurrent state over all layers, the same however long the sequence; it is float32."""
    return BYTES["float32"] * sum(layer.mixer.state_values for layer in config.layers)
