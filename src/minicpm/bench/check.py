"""Looks whether a model computes what it should, before its speed is believed."""

import torch
from torch import Tensor, nn

from minicpm.bench.random_model import random_decoder
from minicpm.bench.shapes import Shape, with_layers
from minicpm.cache import PAGE, Batch, Cache, Segment
from minicpm.checkpoint.building import allocate, blank
from minicpm.config import ModelConfig, MoE
from minicpm.config.kv import AUTO
from minicpm.errors import StepFailed
from minicpm.models.decoder import Decoder

# Relative differences of logits: those of bfloat16 rounding through two layers, and of activations in 8 bits.
BOUNDS = {"bf16": 3e-2, "int8": 6e-2, "int4": 6e-2, "ternary": 6e-2}
_LAYERS = 2
_CHUNKS = (17, 1, 30)


@torch.inference_mode()
def check_shape(shape: Shape, weights: str, *, backend: str, threads: int | None, kv: str = AUTO) -> float:
    """The relative difference between two random layers of this shape, fed in chunks, and float32 torch.

    Both have the same decoded weights. Raises StepFailed beyond the bound of the weights.
    """
    few = with_layers(shape, min(_LAYERS, len(shape.config.layers)))
    decoder = random_decoder(few.config, weights)
    exact = _in_float32(few.config, decoder)
    decoder.prepare(backend, threads=threads)
    ids = _prompt(few.config)
    difference = _difference(_in_chunks(decoder, ids, kv), exact.logits_for(ids), few.config)
    _require(difference, weights, "two layers of this shape and their float32 reference")
    return difference


@torch.inference_mode()
def check_chunks(decoder: Decoder, weights: str, *, kv: str = AUTO) -> float:
    """The relative difference between a prompt fed whole and in chunks; StepFailed beyond the bound."""
    ids = _prompt(decoder.config)
    whole = decoder.logits_for(ids)
    difference = _difference(_in_chunks(decoder, ids, kv), whole, decoder.config)
    _require(difference, weights, "a prompt fed in chunks and whole")
    return difference


def _in_float32(config: ModelConfig, decoder: Decoder) -> Decoder:
    """The same weights, decoded, in float32 and in the plain operators of torch."""
    exact = blank(config)
    assert isinstance(exact, Decoder), "a shape writes text"
    allocate(exact, torch.float32, torch.device("cpu"))
    exact.load_state_dict(_decoded(decoder))
    exact.prepare("reference")
    return exact


def _decoded(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.float() for name, weight in module.state_dict().items()}


def _prompt(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocab, (sum(_CHUNKS),), generator=torch.Generator().manual_seed(1))


def _in_chunks(decoder: Decoder, ids: Tensor, kv: str) -> Tensor:
    """Logits [T, V] of a prompt that is fed in unequal chunks."""
    cache = decoder.new_cache(-(-len(ids) // PAGE), kv=kv)
    seq = cache.open()
    cache.reserve(seq, len(ids))
    return torch.cat([_feed(decoder, cache, seq, part) for part in torch.split(ids, list(_CHUNKS))])


def _feed(decoder: Decoder, cache: Cache, seq: int, ids: Tensor) -> Tensor:
    segment = Segment(seq, cache.length(seq), len(ids))
    return decoder.logits(decoder(Batch(ids, (segment,), cache)))


def _difference(found: Tensor, expected: Tensor, config: ModelConfig) -> float:
    """The relative difference of logits [T, V] in their norm; with experts, that of the middle token.

    Rounding may turn the choice between two equally probable experts, and with it all of a token.
    """
    apart, size = (found - expected).norm(dim=-1), expected.norm(dim=-1)
    if any(isinstance(layer.ffn, MoE) for layer in config.layers):
        return float((apart / size).median())
    return float(apart.norm() / size.norm())


def _require(difference: float, weights: str, between: str) -> None:
    bound = BOUNDS[weights]
    if difference <= bound:
        return
    raise StepFailed(
        f"The logits of {between} differ by {difference:.1%}, where {bound:.0%} is what {weights} explains. "
        "Wrong numbers are not timed. Try --backend torch, and report this with `minicpm doctor`."
    )
