"""A cache is filled to a length without computing, and a sequence that grew goes back to it."""

import pytest
import torch

from minicpm.bench.context import filled_cache, reset
from minicpm.bench.random_model import random_decoder
from minicpm.bench.shapes import shape_of
from minicpm.cache import PAGE, Batch, Segment
from minicpm.cache.rounded import RoundedPlane
from minicpm.config.sparse import with_sparse
from minicpm.ops import native

BACKENDS = ["torch", "auto"]


def decoder_of(shape, backend="torch"):
    decoder = random_decoder(shape.config, "bf16")
    decoder.prepare(backend)
    return decoder


@torch.inference_mode()
def step(decoder, cache, sequences):
    segments = tuple(Segment(seq, cache.length(seq), 1) for seq in sequences)
    return decoder.logits(decoder(Batch(torch.zeros(len(sequences), dtype=torch.int64), segments, cache)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [0, 1, 64, 200])
def test_sequences_of_any_length_can_be_decoded(each, length, backend):
    decoder = decoder_of(each, backend)
    cache, sequences = filled_cache(decoder, [length, length + 3], 8)
    assert [cache.length(seq) for seq in sequences] == [length, length + 3]
    for seq in sequences:
        assert cache.reserve(seq, 1)
    logits = step(decoder, cache, sequences)
    assert logits.isfinite().all()
    assert 0.01 < logits.std() < 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_sequence_with_sparse_attention_can_be_decoded(toy, backend):
    shape = toy()
    sparse = shape_of("sparse", with_sparse(shape.config, "on"))
    decoder = decoder_of(sparse, backend)
    cache, (seq,) = filled_cache(decoder, [8500], 8)
    assert cache.reserve(seq, 1)
    assert step(decoder, cache, [seq]).isfinite().all()


@pytest.mark.parametrize("length", [0, 64, 130])
def test_a_sequence_that_grew_goes_back(each, length):
    decoder = decoder_of(each)
    cache, (seq,) = filled_cache(decoder, [length], 2 * PAGE)
    for _ in range(3):
        assert cache.reserve(seq, 70)
        for _ in range(70):
            step(decoder, cache, [seq])
        assert cache.length(seq) == length + 70
        reset(cache, decoder.config, seq, length)
        assert cache.length(seq) == length


def test_a_filled_cache_is_no_larger_than_it_must_be(each):
    cache, _ = filled_cache(decoder_of(each), [100, 100], 20)
    assert cache.total_pages == 4


@pytest.mark.parametrize("kv", ["auto", "int8"])
def test_no_page_of_a_filled_cache_was_never_written(toy, kv):
    if native.absence() is not None:
        pytest.skip("needs the compiled part: install from source with a C++ compiler")
    shape = toy()
    decoder = decoder_of(shape_of("sparse", with_sparse(shape.config, "on")), "native")
    cache, _ = filled_cache(decoder, [500], 8, kv=kv)
    for store in cache.stores:
        for plane in store.planes:
            assert plane.pages.any(dim=-1).all()
            assert not isinstance(plane, RoundedPlane) or (plane.scales > 0).all()


def test_sequences_in_eight_bits_can_be_decoded(toy):
    if native.absence() is not None:
        pytest.skip("needs the compiled part: install from source with a C++ compiler")
    decoder = decoder_of(toy(), "native")
    cache, (seq,) = filled_cache(decoder, [200], 8, kv="int8")
    assert cache.reserve(seq, 1)
    logits = step(decoder, cache, [seq])
    assert logits.isfinite().all()
    assert 0.01 < logits.std() < 100
