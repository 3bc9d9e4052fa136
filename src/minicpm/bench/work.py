"""What a forward must at least read and compute, from a model's description alone.

    decode    every weight once (of experts those chosen), and of each sequence what its queries attend to
    prefill   every weight times every token, and every query times what it attends to

Neither counts what a good implementation can avoid: rows of the embedding, activations, keys read twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from minicpm.bench.weights import Footprint, experts_used
from minicpm.config import BYTES, GQA, MLA, InfLLM, Lightning, Mixer, ModelConfig
from minicpm.config.kv import AUTO, vector_bytes
from minicpm.config.sparse import chosen_blocks, dense_positions, visible_kernels

_CACHED = "bfloat16"
_STATE = BYTES["float32"]


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes to read, and operations on weights and between queries and keys; a multiply-add is two."""

    nbytes: float
    on_weights: float
    on_context: float


def decode_work(config: ModelConfig, held: Footprint, contexts: Sequence[int], *, kv: str = AUTO) -> Work:
    """One token for each sequence, which then attends to so many before it and itself."""
    mixers = [layer.mixer for layer in config.layers]
    past = sum(_read_bytes(mixer, n, kv) for mixer in mixers for n in contexts)
    pairs = sum(_operations(mixer, n, few=True) for mixer in mixers for n in contexts)
    batch = len(contexts)
    return Work(_weight_bytes(config, held, batch) + past, _products(config, held, batch, batch), pairs)


def prefill_work(config: ModelConfig, held: Footprint, tokens: int) -> Work:
    """A prompt of so many tokens from nothing, and logits for its last."""
    pairs = sum(_prefill_operations(layer.mixer, tokens) for layer in config.layers)
    return Work(_weight_bytes(config, held, tokens), _products(config, held, tokens, 1), pairs)


def _weight_bytes(config: ModelConfig, held: Footprint, tokens: int) -> float:
    _, together = experts_used(config, tokens)
    return held.shared.nbytes + held.head.nbytes + together * held.experts.nbytes


def _products(config: ModelConfig, held: Footprint, tokens: int, logits: int) -> float:
    """Operations of so many tokens in the layers and so many rows of logits."""
    own, _ = experts_used(config, tokens)
    return 2.0 * (tokens * (held.shared.count + own * held.experts.count) + logits * held.head.count)


def _attended(mixer: InfLLM, position: int) -> int:
    """Tokens that a query at this position reads."""
    if position < dense_positions(mixer.sparse):
        return position + 1
    return min(position + 1, chosen_blocks(mixer.sparse) * mixer.sparse.block_size)


def _compressed(mixer: InfLLM, position: int) -> int:
    """Compressed keys that it chooses by."""
    return visible_kernels(position, mixer.sparse) if position >= dense_positions(mixer.sparse) else 0


def _read_bytes(mixer: Mixer, n: int, kv: str) -> float:
    """Bytes that a query at position n reads of its sequence."""
    match mixer:
        case GQA():
            return float(2 * mixer.kv_heads * vector_bytes(mixer.head_dim, _CACHED, kv) * (n + 1))
        case InfLLM():
            attended = 2 * vector_bytes(mixer.head_dim, _CACHED, kv) * _attended(mixer, n)
            compressed = vector_bytes(mixer.head_dim, _CACHED) * _compressed(mixer, n)
            return float(mixer.kv_heads * (attended + compressed))
        case MLA():
            return float((mixer.kv_rank + mixer.rope) * BYTES[_CACHED] * (n + 1))
        case Lightning():
            return float(mixer.state_values * _STATE)


def _operations(mixer: Mixer, n: int, *, few: bool) -> float:
    """Operations of a query at position n; `few` queries at once leave latents as they are."""
    match mixer:
        case GQA():
            return 4.0 * mixer.heads * mixer.head_dim * (n + 1)
        case InfLLM():
            width = mixer.heads * mixer.head_dim
            return 4.0 * width * _attended(mixer, n) + 2.0 * width * _compressed(mixer, n)
        case MLA() if few:
            return 2.0 * mixer.heads * (2 * mixer.kv_rank + mixer.rope) * (n + 1)
        case MLA():
            return 2.0 * mixer.heads * (mixer.head_dim + mixer.value) * (n + 1)
        case Lightning():
            return 4.0 * mixer.heads * mixer.head_dim**2


def _prefill_operations(mixer: Mixer, tokens: int) -> float:
    """The sum over all positions; far into sparse attention by a sample of them."""
    stride = max(1, tokens // 4096)
    positions = range(stride // 2, tokens, stride)
    return sum(_operations(mixer, n, few=False) for n in positions) * tokens / max(len(positions), 1)
