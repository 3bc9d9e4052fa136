"""Pages of the kernels are read and written by rows, in bfloat16 and in 8 bits."""

import pytest
import torch

from minicpm.cache import BFLOAT16_PAGES, INT8_PAGES, BlockedSparseStore, BlockedStore
from minicpm.cache.rounded import rounded
from minicpm.config import GQA, InfLLM, SparseConfig
from minicpm.config.memory import vector_bytes
from minicpm.ops import native

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 32
BOTH = pytest.mark.parametrize("held", [BFLOAT16_PAGES, INT8_PAGES], ids=["bfloat16", "int8"])
# Half a step of eight bits, relative to the largest number of a head, and the rounding of 127 / largest.
INT8 = 0.5 / 127 * 1.0001


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def store_of(held, pages=3):
    return BlockedStore(pages, HEADS, WIDTH, held=held, device=CPU)


def sparse_store(held, use_nope=True):
    mixer = InfLLM(GQA(4, HEADS, WIDTH), SparseConfig(use_nope=use_nope))
    return BlockedSparseStore(3, mixer, held=held, device=CPU)


@BOTH
def test_rows_that_are_written_anywhere_are_read_back(held):
    store, rows = store_of(held), torch.randperm(3 * 64, generator=torch.Generator().manual_seed(1))[:100]
    k, v = normal(100, HEADS, WIDTH, seed=2), normal(100, HEADS, WIDTH, seed=3)
    store.write(rows, k, v)
    for found, wanted in zip(store.read(rows), (k, v), strict=True):
        bound = INT8 * wanted.abs().amax(-1, keepdim=True) if held is INT8_PAGES else wanted.abs() * 2**-8
        assert bool(((found.float() - wanted).abs() <= bound).all())


@BOTH
def test_a_slice_is_the_rows_in_it(held):
    store = store_of(held)
    store.write(slice(60, 130), normal(70, HEADS, WIDTH), normal(70, HEADS, WIDTH, seed=1))
    for some, same in zip(store.read(slice(60, 130)), store.read(torch.arange(60, 130)), strict=True):
        assert torch.equal(some, same)


@BOTH
def test_what_was_never_written_is_zero(held):
    assert not any(part.any() for part in store_of(held).read(slice(0, 192)))


@BOTH
def test_rows_written_one_by_one_have_the_bits_of_all_at_once(held):
    whole, single = store_of(held), store_of(held)
    k, v = normal(130, HEADS, WIDTH), normal(130, HEADS, WIDTH, seed=1)
    whole.write(slice(0, 130), k, v)
    for row in range(130):
        single.write(slice(row, row + 1), k[row : row + 1], v[row : row + 1])
    for ours, wanted in zip(single.read(slice(0, 130)), whole.read(slice(0, 130)), strict=True):
        assert torch.equal(ours, wanted)


@BOTH
@pytest.mark.parametrize("make", [store_of, sparse_store])
def test_growing_keeps_what_is_held_and_copying_a_page_copies_all_of_it(held, make):
    store = make(held)
    store.write(slice(0, 192), normal(192, HEADS, WIDTH), normal(192, HEADS, WIDTH, seed=1))
    if store.unrotated is not None:
        store.write_unrotated(slice(0, 192), normal(192, HEADS, WIDTH, seed=2))
    before = [plane.read(slice(0, 12)) for plane in store.planes]
    store.grow(7)
    store.copy_page(0, 6)
    for plane, wanted in zip(store.planes, before, strict=True):
        rows = plane.pages.numel() // (7 * HEADS * WIDTH)
        assert torch.equal(plane.read(slice(0, 12)), wanted)
        assert torch.equal(plane.read(slice(6 * rows, 7 * rows)), plane.read(slice(0, rows)))


@BOTH
@pytest.mark.parametrize("use_nope", [False, True])
def test_bytes_are_those_of_keys_values_and_compressed_keys(held, use_nope):
    store = sparse_store(held, use_nope)
    vector = vector_bytes(WIDTH, "bfloat16", "int8" if held is INT8_PAGES else "auto")
    assert store.nbytes == 3 * HEADS * ((3 if use_nope else 2) * 64 * vector + 4 * WIDTH * 2)


@pytest.mark.skipif(
    native.absence() is not None, reason="needs the compiled part: install with a C++ compiler"
)
@BOTH
def test_a_handle_is_made_anew_when_the_store_grows(held):
    store = store_of(held)
    first = store.handle
    assert store.handle is first
    store.grow(5)
    assert store.handle is not first


def test_codes_reach_the_ends_and_vectors_of_zeros_stay_zeros():
    vectors = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 3.0, 1e-9]])
    codes, scales = rounded(vectors)
    assert codes.tolist() == [[64, -127, 32], [0, 0, 0], [-127, 127, 0]]
    assert scales.tolist() == [torch.tensor(x).div(127).item() for x in (2.0, 0.0, 3.0)]


def test_compressed_keys_are_means_of_what_was_rounded():
    store = sparse_store(INT8_PAGES, use_nope=False)
    store.write(slice(0, 64), normal(64, HEADS, WIDTH), normal(64, HEADS, WIDTH))
    store.complete(slice(0, 64), 0, lambda keys: keys.unfold(0, 32, 16).mean(-1))
    wanted = store.k.read(slice(0, 64)).unfold(0, 32, 16).mean(-1)
    assert store.compressed.dtype == torch.bfloat16
    assert torch.equal(store.read_compressed(slice(0, 64)), wanted.bfloat16())
