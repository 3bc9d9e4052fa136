"""Fills a cache with sequences of a given length without computing them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minicpm.bench.noise import STD_OF_BYTES, fill_integers, fill_uniform
from minicpm.cache import PAGE, BlockedStore, Cache, Segment, StateStore, Store
from minicpm.cache.blocked import Plane
from minicpm.cache.rounded import RoundedPlane
from minicpm.config import Lightning, ModelConfig
from minicpm.config.kv import AUTO
from minicpm.models.decoder import Decoder

_STD = 0.5
"""Of keys, values, latents and states: softmax then neither picks one token nor all alike."""


def filled_cache(
    decoder: Decoder, lengths: Sequence[int], room: int, *, kv: str = AUTO
) -> tuple[Cache, list[int]]:
    """A cache with a sequence of each length, of random contents, and pages for `room` more tokens each.

    All of it is written to: what never was is one page of zeros to the system, and read sooner than memory.
    """
    pages = sum(-(-(length + room) // PAGE) for length in lengths)
    cache = decoder.new_cache(pages, kv=kv)
    for store in cache.stores:
        _fill_store(store)
    sequences = []
    for length in lengths:
        sequences.append(cache.open())
        extend(cache, decoder.config, sequences[-1], length)
    return cache, sequences


def extend(cache: Cache, config: ModelConfig, seq: int, length: int) -> None:
    """Let a sequence hold up to `length` tokens, the new ones those its pages happen to hold."""
    missing = length - cache.length(seq)
    taken = cache.reserve(seq, missing)
    assert taken, "the cache has pages for all sequences"
    for layer, store in zip(config.layers, cache.stores, strict=True):
        if isinstance(store, StateStore):
            assert isinstance(layer.mixer, Lightning), "states are those of lightning layers"
            _advance(store, seq, missing, layer.mixer)
    cache.commit([Segment(seq, length - missing, missing)])


def reset(cache: Cache, config: ModelConfig, seq: int, length: int) -> None:
    """Bring a sequence that has grown back to `length`."""
    cache.rewind(seq, length)
    extend(cache, config, seq, length)


def _advance(store: StateStore, seq: int, count: int, mixer: Lightning) -> None:
    state = torch.empty(mixer.heads, mixer.head_dim, mixer.head_dim)
    _fill(state)
    for piece in store.pieces(seq, count):
        store.advance(seq, piece, state)


def _fill_store(store: Store) -> None:
    if isinstance(store, BlockedStore):
        for plane in store.planes:
            _fill_plane(plane)
    else:
        for tensor in _tensors(vars(store)):
            _fill(tensor)


def _fill_plane(plane: Plane) -> None:
    if isinstance(plane, RoundedPlane):
        fill_integers(plane.pages)
        plane.scales.fill_(_STD / STD_OF_BYTES)
    else:
        fill_uniform(plane.pages, _STD)


def _tensors(attributes: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an object holds, itself or in lists and tuples."""
    for value in attributes.values():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Tensor):
                yield part


def _fill(tensor: Tensor) -> None:
    if tensor.is_floating_point():
        fill_uniform(tensor, _STD)
    elif tensor.dtype in (torch.int8, torch.uint8):
        fill_integers(tensor)
