"""How many bytes weights take that are rounded to few bits, from a config alone, and which are."""

from collections.abc import Iterator

from minicpm.config.dtypes import BITS, BYTES, ROUNDED_HEADS
from minicpm.config.feed_forwards import Dense, FeedForward, MoE
from minicpm.config.heads import NextToken
from minicpm.config.mixers import GQA, MLA, InfLLM, Lightning, Mixer
from minicpm.config.model import ModelConfig, parameter_count

Shape = tuple[int, int]
"""Outputs and inputs of a matrix."""

GROUPS = {8: (128, 64, 32), 4: (64, 32)}
"""Columns per scale by bits; the largest that divides a row is used. 8 bits lose little in large groups."""
HEAD_BITS = 8
"""Of the matrix that chooses tokens, and embeds them where it is tied: its errors are those of logits."""
_TERNARY_BITS = 2 + 16 / 128  # as published: one bfloat16 scale per 128 weights


def group_of(columns: int, bits: int) -> int | None:
    """Columns per scale for a matrix of this many; None where it stays plain, for no group divides it."""
    return next((group for group in GROUPS[bits] if columns % group == 0), None)


def rounded_bytes(shape: Shape, bits: int, scale_bytes: int = BYTES["bfloat16"]) -> int | None:
    """Bytes of a matrix [O, I] rounded to `bits`; None where it stays plain."""
    rows, columns = shape
    group = group_of(columns, bits)
    return None if group is None else rows * (columns * bits // 8 + columns // group * scale_bytes)


def held_bytes(config: ModelConfig, dtype: str, weights: str = "plain") -> int:
    """Bytes of all weights held this way, what is not rounded as `dtype`; about those of ternary models."""
    plain = parameter_count(config) * BYTES[dtype]
    if weights == "plain":
        return plain
    inner = list(_matrices(config))
    head = head_saving(config, dtype, weights)
    if weights not in BITS:
        return plain - head - sum(int(o * i * (BYTES[dtype] - _TERNARY_BITS / 8)) for o, i in inner)
    saved = [_saved(shape, BITS[weights], dtype) for shape in inner]
    return plain - head - sum(saved) + absorbed_bytes(config, dtype)


def head_saving(config: ModelConfig, dtype: str, weights: str) -> int:
    """Bytes that the matrix that makes logits, if there is one, takes less than plain."""
    if weights not in ROUNDED_HEADS or not isinstance(config.head, NextToken):
        return 0
    return _saved((config.vocab, config.hidden), HEAD_BITS, dtype)


def absorbed_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of the matrices that latent attention needs decoded, beside their codes."""
    latent = [layer.mixer for layer in config.layers if isinstance(layer.mixer, MLA)]
    return BYTES[dtype] * sum(m.kv_rank * m.heads * (m.nope + m.value) for m in latent)


def _saved(shape: Shape, bits: int, dtype: str) -> int:
    rounded = rounded_bytes(shape, bits)
    return 0 if rounded is None else shape[0] * shape[1] * BYTES[dtype] - rounded


def _matrices(config: ModelConfig) -> Iterator[Shape]:
    """The projections of all layers; routers are none, for they choose."""
    for layer in config.layers:
        yield from _mixing(layer.mixer, config.hidden)
        yield from _feeding(layer.ffn, config.hidden)


def _mixing(mixer: Mixer, hidden: int) -> list[Shape]:
    match mixer:
        case InfLLM():
            return _mixing(mixer.attention, hidden)
        case GQA() | Lightning():
            width, shared = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
            gate = [(width, hidden)] * mixer.gated
            return [(width, hidden), (shared, hidden), (shared, hidden), (hidden, width), *gate]
        case MLA():
            return [
                (mixer.q_rank, hidden),
                (mixer.heads * mixer.head_dim, mixer.q_rank),
                (mixer.kv_rank + mixer.rope, hidden),
                (mixer.heads * (mixer.nope + mixer.value), mixer.kv_rank),
                (hidden, mixer.heads * mixer.value),
            ]


def _feeding(ffn: FeedForward, hidden: int) -> list[Shape]:
    one = [(ffn.intermediate, hidden), (ffn.intermediate, hidden), (hidden, ffn.intermediate)]
    match ffn:
        case Dense():
            return one
        case MoE():
            return one * ffn.experts
