"""Compiled attention over pages agrees with the reference on what the pages hold."""

import pytest
import torch

from minicpm.ops.attention.reference import attend

# Float32 sums in another order, and an exponential good to 2e-7; measured at most 3e-6.
FLOAT32 = 3e-5
# Half a step of eight bits, relative to the largest number of a head.
INT8 = 0.5 / 127

LENGTHS = [1, 15, 16, 31, 32, 63, 64, 65, 127, 1000]


def assert_close(got, wanted, tolerance=FLOAT32):
    difference = (got - wanted).abs().max().item()
    assert difference <= tolerance * max(1.0, wanted.abs().max().item()), f"largest difference {difference}"


def filled(paged, tables, normal, lengths, *, kv_heads=2, width=64, **options):
    """A cache with sequences of these lengths, their tables, keys and values."""
    parts, pages = tables(lengths)
    cache = paged(pages, kv_heads, width, **options)
    k = [normal(n, kv_heads, width, seed=3 * i + 1) for i, n in enumerate(lengths)]
    v = [normal(n, kv_heads, width, seed=3 * i + 2) for i, n in enumerate(lengths)]
    cache.write(parts, [0] * len(lengths), k, v)
    return cache, parts, k, v


def check(cache, parts, lengths, q, *, tolerance=FLOAT32):
    starts = [n - len(x) for n, x in zip(lengths, q, strict=True)]
    for out, x, table, n in zip(cache.attend(parts, starts, q), q, parts, lengths, strict=True):
        assert_close(out, attend(x, cache.stored(0, table, n), cache.stored(1, table, n)), tolerance)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_prompt_is_attended_to_as_by_the_reference(paged, tables, normal, length, int8):
    cache, parts, _, _ = filled(paged, tables, normal, [length], int8=int8)
    check(cache, parts, [length], [normal(length, 16, 64)])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("length", [*LENGTHS, *range(2047, 2114, 11)])
def test_one_token_is_decoded_as_by_the_reference(paged, tables, normal, length, threads, int8):
    cache, parts, _, _ = filled(paged, tables, normal, [length], threads=threads, int8=int8)
    check(cache, parts, [length], [normal(1, 16, 64)])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("width", [32, 48, 64, 96, 128])
@pytest.mark.parametrize("group", [1, 2, 3, 5, 7, 8, 16, 18])
def test_any_group_of_heads_and_any_width(paged, tables, normal, group, width, int8):
    lengths, counts = [130, 65, 333], [1, 7, 50]
    cache, parts, _, _ = filled(paged, tables, normal, lengths, width=width, int8=int8)
    check(cache, parts, lengths, [normal(n, 2 * group, width, seed=n) for n in counts])


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_sequences_of_one_batch_do_not_meet(paged, tables, normal, threads):
    lengths, counts = [1, 700, 64, 129, 2000, 63], [1, 1, 64, 2, 33, 5]
    cache, parts, _, _ = filled(paged, tables, normal, lengths, threads=threads)
    for repeat in range(3):
        check(cache, parts, lengths, [normal(n, 16, 64, seed=n + repeat) for n in counts])


@pytest.mark.parametrize("count", [2, 3, 16, 64])
def test_drafted_tokens_are_verified_as_by_the_reference(paged, tables, normal, count):
    cache, parts, _, _ = filled(paged, tables, normal, [1500], threads=3, kv_heads=1)
    check(cache, parts, [1500], [normal(count, 8, 64)])


@pytest.mark.parametrize("int8", [False, True])
def test_chunks_write_and_read_what_a_whole_prompt_does(paged, tables, normal, int8):
    length, chunks = 300, [1, 2, 61, 64, 65, 107]
    whole, (table,), k, v = filled(paged, tables, normal, [length], int8=int8)
    chunked = paged(len(table), 2, 64, int8=int8)
    q, start, outs = normal(length, 16, 64), 0, []
    for count in chunks:
        part = slice(start, start + count)
        chunked.write([table], [start], [k[0][part]], [v[0][part]])
        outs += chunked.attend([table], [start], [q[part]])
        start += count
    for plane in (0, 1):
        assert torch.equal(chunked.stored(plane, table, length), whole.stored(plane, table, length))
    assert_close(torch.cat(outs), whole.attend([table], [0], [q])[0])


def test_sequences_may_share_pages(paged, tables, normal):
    lengths = [200, 180]
    (first, second), pages = tables(lengths)
    second[:2] = first[:2]
    cache = paged(pages, 2, 64)
    k, v = normal(200, 2, 64, seed=1), normal(200, 2, 64, seed=2)
    own_k, own_v = normal(52, 2, 64, seed=3), normal(52, 2, 64, seed=4)
    cache.write([first, second], [0, 128], [k, own_k], [v, own_v])
    check(cache, [first, second], lengths, [normal(4, 16, 64), normal(1, 16, 64)])


def test_keys_and_values_are_rounded_to_nearest(paged, tables, normal):
    cache, (table,), k, v = filled(paged, tables, normal, [100])
    assert torch.equal(cache.stored(0, table, 100), k[0].bfloat16().float())
    assert torch.equal(cache.stored(1, table, 100), v[0].bfloat16().float())


def test_eight_bits_keep_each_head_within_half_a_step(paged, tables, normal):
    cache, (table,), k, v = filled(paged, tables, normal, [100], int8=True)
    for plane, x in ((0, k[0]), (1, v[0])):
        step = x.abs().amax(-1, keepdim=True) * INT8
        assert bool(((cache.stored(plane, table, 100) - x).abs() <= step * 1.001).all())


def test_large_scores_do_not_overflow(paged, tables, normal):
    (table,), pages = tables([130])
    cache = paged(pages, 1, 64)
    cache.write([table], [0], [normal(130, 1, 64, seed=1) * 100], [normal(130, 1, 64, seed=2)])
    out = cache.attend([table], [129], [normal(1, 8, 64) * 100])[0]
    assert bool(out.isfinite().all())
