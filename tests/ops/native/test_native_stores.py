"""A store and the kernels write and read the same pages, in bfloat16 and in 8 bits."""

import pytest
import torch

from minicpm.cache import BFLOAT16_PAGES, INT8_PAGES, BlockedSparseStore, BlockedStore
from minicpm.config import GQA, InfLLM, SparseConfig
from minicpm.ops.attention.reference import attend

CPU = torch.device("cpu")
HEADS = 2
BOTH = pytest.mark.parametrize("held", [BFLOAT16_PAGES, INT8_PAGES], ids=["bfloat16", "int8"])
# Float32 sums in another order, and an exponential good to 2e-7.
FLOAT32 = 3e-5
# A rounding or two of float32, relative to the largest number of a head.
HALFWAY = 2.0**-22


def as_rows(table, count):
    """Rows of the first tokens of a sequence over these pages."""
    return (table.long()[:, None] * 64 + torch.arange(64)).flatten()[:count]


def write(native, store, table, k, v, unrotated):
    segments = native.Segments([0], [len(k)], [table.data_ptr()])
    addresses = [x.contiguous().data_ptr() for x in (k, v, unrotated)]
    native.write(native.Pool(2, False), store.handle, segments, *addresses, k[0].numel())


def vectors(normal, count, width, seed):
    """Of very different sizes, zeros among them, and numbers that lie between two codes."""
    x = normal(count, HEADS, width, seed=seed) * 10.0 ** normal(count, HEADS, 1, seed=seed + 50)
    x[::7] = 0
    x[1::7] = (x[1::7] * 4).round() / 4
    x[2::7, :, 0] = 127  # a step of 1
    x[2::7, :, 1:] = (2 * x[2::7, :, 1:].clamp(-60, 60)).round() / 2
    return x


def assert_same_codes(native, own, wanted, x, rows):
    """The same scales and codes; where a set multiplies and rounds at once, but for what lies between two."""
    assert torch.equal(own.scales, wanted.scales)
    if native.instruction_set() == "avx512":
        assert torch.equal(own.pages, wanted.pages)
    found, right = own.read(rows), wanted.read(rows)
    from_middle = ((found + right) / 2 - x).abs()
    assert bool(((found == right) | (from_middle <= HALFWAY * x.abs().amax(-1, keepdim=True))).all())


@BOTH
@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_a_store_writes_the_bits_that_the_kernels_write(native, tables, normal, held, width, count):
    (table,), pages = tables([count])
    mixer = InfLLM(GQA(4, HEADS, width), SparseConfig(use_nope=True))
    ours, theirs = (BlockedSparseStore(pages, mixer, held=held, device=CPU) for _ in range(2))
    written, rows = [vectors(normal, count, width, seed) for seed in (1, 2, 3)], as_rows(table, count)
    write(native, theirs, table, *written)
    ours.write(rows, *written[:2])
    ours.write_unrotated(rows, written[2])
    own, wanted = ((store.k, store.v, store.unrotated) for store in (ours, theirs))
    for mine, right, x in zip(own, wanted, written, strict=True):
        if held is INT8_PAGES:
            assert_same_codes(native, mine, right, x, rows)
        else:
            assert torch.equal(mine.pages, right.pages)


@BOTH
@pytest.mark.parametrize("count", [1, 15, 64, 65, 500])
@pytest.mark.parametrize("queries", [1, 40])
def test_the_kernels_read_what_a_store_reads(native, tables, normal, held, count, queries):
    queries = min(queries, count)
    (table,), pages = tables([count])
    store = BlockedStore(pages, HEADS, 64, held=held, device=CPU)
    store.write(as_rows(table, count), normal(count, HEADS, 64, seed=1), normal(count, HEADS, 64, seed=2))
    store.grow(pages + 2)
    q = normal(queries, 8, 64, seed=3)
    out = torch.full_like(q, torch.nan)
    segments = native.Segments([count - queries], [queries], [table.data_ptr()])
    pool, scratch = native.Pool(2, False), native.Scratch()
    native.attend(pool, scratch, store.handle, segments, 8, q.data_ptr(), 512, out.data_ptr(), 512)
    k, v = (part.float() for part in store.read(as_rows(table, count)))
    assert torch.allclose(out, attend(q, k, v), atol=FLOAT32, rtol=FLOAT32)
