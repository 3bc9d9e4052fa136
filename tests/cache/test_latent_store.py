"""A latent store keeps one row per token, by page."""

import pytest
import torch

from minicpm.cache import PAGE, Cache, LatentStore, Segment

CPU = torch.device("cpu")


def store_of(pages, width=6, dtype=torch.float32):
    store = LatentStore(pages, width, dtype=dtype, device=CPU)
    store.latents.fill_(torch.nan)
    return store


@pytest.mark.parametrize("rows", [slice(3, 7), torch.tensor([70, 3, 0, 127])], ids=["slice", "index"])
def test_what_is_written_is_read_and_nothing_else_is_touched(rows):
    store, latents = store_of(2), torch.randn(4, 6)
    store.write(rows, latents)
    assert torch.equal(store.read(rows), latents)
    assert store.latents.isnan().all(dim=1).sum() == 2 * PAGE - 4


def test_a_slice_is_read_as_a_view():
    store = store_of(2)
    assert (
        store.read(slice(60, 70)).untyped_storage().data_ptr() == store.latents.untyped_storage().data_ptr()
    )


def test_a_page_is_copied_whole_and_alone():
    store = store_of(3)
    store.latents.copy_(torch.randn(3 * PAGE, 6))
    before = store.latents.clone()
    store.copy_page(2, 0)
    first, second, third = store.latents.split(PAGE)
    assert torch.equal(first, third)
    assert torch.equal(torch.cat((second, third)), before[PAGE:])


def test_growing_keeps_what_is_held_and_makes_room():
    store, latents = store_of(1), torch.randn(PAGE, 6)
    store.write(slice(0, PAGE), latents)
    store.grow(3)
    assert torch.equal(store.read(slice(0, PAGE)), latents)
    assert store.nbytes == 3 * PAGE * 6 * 4


def test_latents_are_rounded_to_the_dtype_of_the_store():
    store, latents = store_of(1, dtype=torch.bfloat16), torch.randn(2, 6)
    store.write(slice(0, 2), latents)
    assert torch.equal(store.read(slice(0, 2)), latents.bfloat16())
    assert store.nbytes == PAGE * 6 * 2


def test_a_fork_writes_to_a_page_of_its_own():
    store = store_of(4)
    cache = Cache([store], 4, device=CPU)
    parent = cache.open()
    _append(cache, store, parent, torch.ones(10, 6))
    child = cache.fork(parent, 7)
    _append(cache, store, child, torch.full((2, 6), 2.0))
    assert torch.equal(_all(cache, store, parent), torch.ones(10, 6))
    assert torch.equal(_all(cache, store, child), torch.cat((torch.ones(7, 6), torch.full((2, 6), 2.0))))


def _append(cache, store, seq, latents):
    assert cache.reserve(seq, len(latents))
    segment = Segment(seq, cache.length(seq), len(latents))
    store.write(cache.plan([segment]).write, latents)
    cache.commit([segment])


def _all(cache, store, seq):
    (rows,) = cache.plan([Segment(seq, cache.length(seq), 0)]).reads
    return store.read(rows)
