"""Compiled InfLLM-V2 attention chooses and reads the blocks the reference does."""

from dataclasses import replace

import pytest
import torch

from minicpm.config import SparseConfig
from minicpm.config.sparse import chosen_blocks, dense_positions
from minicpm.ops.sparse import choice, reference

# Float32 sums in another order, and an exponential good to 2e-7.
FLOAT32 = 3e-5
# One rounding of a mean to bfloat16 that another order of sums may turn.
BFLOAT16 = 2.0**-8

SMALL = SparseConfig(
    kernel_size=32, kernel_stride=16, init_blocks=1, block_size=64, window_size=128, topk=3, dense_len=-1
)
GEOMETRIES = [
    SMALL,
    replace(SMALL, local_blocks=2),
    replace(SMALL, init_blocks=0, topk=5),
    replace(SMALL, kernel_size=4, kernel_stride=2),
    replace(SMALL, kernel_size=64, kernel_stride=16),
    replace(SMALL, kernel_size=16),
    replace(SMALL, kernel_size=192, kernel_stride=64),
    replace(SMALL, kernel_size=3, kernel_stride=1),
]


def assert_close(got, wanted, tolerance=FLOAT32):
    difference = (got - wanted).abs().max().item()
    assert difference <= tolerance * max(1.0, wanted.abs().max().item()), f"largest difference {difference}"


def filled(paged, tables, normal, lengths, sparse, *, kv_heads=2, width=64, **options):
    parts, pages = tables(lengths)
    cache = paged(pages, kv_heads, width, sparse=sparse, **options)
    k = [normal(n, kv_heads, width, seed=3 * i + 1) for i, n in enumerate(lengths)]
    v = [normal(n, kv_heads, width, seed=3 * i + 2) for i, n in enumerate(lengths)]
    kept = [normal(n, kv_heads, width, seed=3 * i + 3) for i, n in enumerate(lengths)]
    cache.write(parts, [0] * len(lengths), k, v, kept if options.get("unrotated") else None)
    return cache, parts


def as_mask(blocks, count):
    """bool [Hk, T, blocks] of block lists [T, Hk, budget] that end in -1."""
    mask = torch.zeros(*blocks.shape[:2], count + 1, dtype=torch.bool)
    mask.scatter_(2, torch.where(blocks < 0, count, blocks).long(), value=True)
    return mask[..., :count].transpose(0, 1)


def check(cache, table, length, sparse, result, q, choosing=None):
    """Blocks are those of the reference on what is stored, and the attention that over them."""
    out, blocks = result
    start = length - len(q)
    dense = min(max(dense_positions(sparse) - start, 0), len(q))
    k, v = cache.stored(0, table, length), cache.stored(1, table, length)
    chosen = torch.ones(cache.kv_heads, len(q), -(-length // 64), dtype=torch.bool)
    if dense < len(q):
        compressed = cache.stored_compressed(table, length, sparse.kernel_stride)
        scorer = (q if choosing is None else choosing)[dense:]
        chosen[:, dense:] = choice.select(scorer, compressed, length, sparse)
        assert torch.equal(as_mask(blocks[dense:], chosen.shape[-1]), chosen[:, dense:])
    assert_close(out, reference.attend_selected(q, k, v, chosen, sparse))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("sparse", GEOMETRIES)
def test_compressed_keys_are_means_of_what_is_stored(paged, tables, normal, sparse, int8):
    for length in (1, 31, 32, 63, 64, 65, 500):
        cache, (table,) = filled(paged, tables, normal, [length], sparse, int8=int8)
        wanted = reference.compress(cache.stored(0, table, length).double(), sparse).float()
        got = cache.stored_compressed(table, length, sparse.kernel_stride)
        assert got.shape == wanted.shape
        assert bool(((got - wanted).abs() <= BFLOAT16 * wanted.abs()).all())


@pytest.mark.parametrize("sparse", GEOMETRIES)
@pytest.mark.parametrize("length", [1, 320, 321, 447, 448, 700, 1300])
def test_a_token_chooses_and_attends_as_by_the_reference(paged, tables, normal, length, sparse):
    cache, (table,) = filled(paged, tables, normal, [length], sparse)
    q = normal(1, 16, 64)
    check(cache, table, length, sparse, cache.attend_sparse([table], [length - 1], [q])[0], q)


@pytest.mark.parametrize("sparse", GEOMETRIES)
def test_a_prompt_chooses_and_attends_as_by_the_reference(paged, tables, normal, sparse):
    cache, (table,) = filled(paged, tables, normal, [900], sparse)
    q = normal(900, 16, 64)
    check(cache, table, 900, sparse, cache.attend_sparse([table], [0], [q])[0], q)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("width", [32, 48, 64, 96, 128])
@pytest.mark.parametrize("group", [1, 2, 5, 8, 16, 18])
def test_any_group_of_heads_and_any_width(paged, tables, normal, group, width, int8):
    cache, (table,) = filled(paged, tables, normal, [650], SMALL, width=width, int8=int8)
    for count in (1, 9):
        q = normal(count, 2 * group, width, seed=count)
        check(cache, table, 650, SMALL, cache.attend_sparse([table], [650 - count], [q])[0], q)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_sequences_of_one_batch_do_not_meet(paged, tables, normal, threads, kv_heads):
    lengths, counts = [1, 1500, 64, 900, 400, 63], [1, 1, 64, 2, 133, 5]
    cache, parts = filled(paged, tables, normal, lengths, SMALL, threads=threads, kv_heads=kv_heads)
    q = [normal(n, 8 * kv_heads, 64, seed=n) for n in counts]
    starts = [n - count for n, count in zip(lengths, counts, strict=True)]
    results = cache.attend_sparse(parts, starts, q)
    for table, length, x, result in zip(parts, lengths, q, results, strict=True):
        check(cache, table, length, SMALL, result, x)


@pytest.mark.parametrize("int8", [False, True])
def test_unrotated_keys_choose_where_they_are_kept(paged, tables, normal, int8):
    cache, (table,) = filled(paged, tables, normal, [800], SMALL, unrotated=True, int8=int8)
    wanted = reference.compress(cache.stored(2, table, 800).double(), SMALL).float()
    assert_close(cache.stored_compressed(table, 800, 16), wanted, BFLOAT16)
    q, choosing = normal(40, 16, 64), normal(40, 16, 64, seed=9)
    result = cache.attend_sparse([table], [760], [q], [choosing])[0]
    check(cache, table, 800, SMALL, result, q, choosing)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunks_and_single_tokens_choose_what_a_whole_prompt_does(paged, tables, normal, threads):
    length, kv_heads = 777, 1
    whole, (table,) = filled(paged, tables, normal, [length], SMALL, kv_heads=kv_heads, threads=threads)
    q = normal(length, 8, 64)
    out, blocks = whole.attend_sparse([table], [0], [q])[0]
    first = dense_positions(SMALL)
    for count in (1, 64, 100):
        for start in range(0, length, count):
            part = slice(start, min(start + count, length))
            if part.stop <= first:
                continue
            got, chosen = whole.attend_sparse([table], [start], [q[part]])[0]
            skip = max(first - start, 0)
            assert torch.equal(chosen[skip:], blocks[part][skip:])
            assert_close(got, out[part])


def test_compressed_keys_do_not_depend_on_chunks(paged, tables, normal):
    length = 500
    (table,), pages = tables([length])
    k, v = normal(length, 2, 64, seed=1), normal(length, 2, 64, seed=2)
    kept = []
    for count in (1, 7, 64, 500):
        cache = paged(pages, 2, 64, sparse=SMALL)
        for start in range(0, length, count):
            part = slice(start, min(start + count, length))
            cache.write([table], [start], [k[part]], [v[part]])
        kept.append(cache.stored_compressed(table, length, 16))
    assert all(torch.equal(x, kept[0]) for x in kept)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_budget_for_all_blocks_is_dense(paged, tables, normal, threads):
    sparse = replace(SMALL, topk=20)
    cache, (table,) = filled(paged, tables, normal, [1000], sparse, threads=threads)
    assert dense_positions(sparse) == chosen_blocks(sparse) * 64
    cache.compressed = cache.native.Compressed(
        cache.keys.data_ptr(), kernel_size=32, kernel_stride=16, init_blocks=1, local_blocks=3,
        chosen_blocks=cache.budget, dense=0,
    )  # fmt: skip
    for count in (1, 30, 1000):
        q = normal(count, 16, 64)
        out, _ = cache.attend_sparse([table], [1000 - count], [q])[0]
        assert_close(out, cache.attend([table], [1000 - count], [q])[0])


def test_equal_scores_go_to_the_earlier_block(paged, tables):
    length = 1280
    (table,), pages = tables([length])
    cache = paged(pages, 1, 32, sparse=SMALL)
    same = torch.ones(length, 1, 32)
    cache.write([table], [0], [same], [same])
    _, blocks = cache.attend_sparse([table], [length - 1], [torch.ones(1, 8, 32)])[0]
    assert blocks.flatten().tolist() == [0, 1, 17, 18, 19]
