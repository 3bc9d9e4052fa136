"""Compiled attention over latents agrees with the reference."""

import pytest
import torch

from minicpm.ops.latent.native import LatentSegment, NativeLatent, why_not
from minicpm.ops.latent.reference import attend_latent
from minicpm.ops.native.runtime import Runtime

# Float32 sums in another order, moved through one more product; measured at most 1e-6.
FLOAT32 = 1e-5
BFLOAT16 = 2**-8

PAGE = 64
LENGTHS = [1, 2, 15, 17, 63, 64, 65, 127, 129, 1000]
# heads, rank, nope, rope, value
SHAPES = [(40, 256, 64, 32, 64), (1, 16, 4, 2, 6), (4, 32, 12, 16, 16), (3, 48, 7, 6, 9), (9, 16, 8, 34, 5)]


@pytest.fixture
def latent(native, normal):
    """Makes an operator of given shape, its matrices, and a runtime that keeps it alive."""

    def make(shape, *, threads=2):
        heads, rank, nope, rope, value = shape
        u_k, u_v = (
            normal(heads, width, rank, seed=seed).div(rank**0.5).bfloat16()
            for width, seed in ((nope, 1), (value, 2))
        )
        runtime = Runtime(1)
        runtime.pool = native.Pool(threads, False)
        return NativeLatent(u_k, u_v, rope=rope, runtime=runtime), u_k, u_v

    return make


def inputs(normal, shape, count, length):
    heads, rank, nope, rope, _ = shape
    return normal(count, heads, nope + rope, seed=3), normal(length, rank + rope, seed=4).bfloat16()


def assert_close(got, expected, tolerance=FLOAT32):
    assert not got.isnan().any(), "some numbers were never written"
    difference = (got.float() - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item()), f"largest difference {difference}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_one_query_reads_any_length_as_the_reference(latent, normal, length, shape):
    op, u_k, u_v = latent(shape)
    q, latents = inputs(normal, shape, 1, length)
    got = op(q, latents, [LatentSegment(0, 1, length)])
    assert_close(got, attend_latent(q, latents, u_k, u_v))


@pytest.mark.parametrize("count", [2, 3, 8, 9, 20])
@pytest.mark.parametrize("past", [0, 1, 62, 64, 130])
def test_each_of_several_queries_sees_what_came_before_it(latent, normal, past, count):
    shape = (5, 32, 12, 8, 10)
    op, u_k, u_v = latent(shape)
    q, latents = inputs(normal, shape, count, past + count)
    got = op(q, latents, [LatentSegment(0, count, past + count)])
    assert_close(got, attend_latent(q, latents, u_k, u_v))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 65, 500])
def test_threads_share_the_pages(latent, normal, length, threads):
    op, u_k, u_v = latent((4, 32, 12, 16, 16), threads=threads)
    q, latents = inputs(normal, (4, 32, 12, 16, 16), 1, length)
    assert_close(op(q, latents, [LatentSegment(0, 1, length)]), attend_latent(q, latents, u_k, u_v))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sequences_in_scattered_pages_of_a_poisoned_store(latent, normal, tables, threads):
    shape, lengths, counts = (5, 48, 12, 16, 7), [1, 1000, 64, 65, 130], [1, 3, 1, 8, 11]
    op, u_k, u_v = latent(shape, threads=threads)
    parts, pages = tables(lengths)
    store = torch.full((pages * PAGE, 64), torch.nan, dtype=torch.bfloat16)
    q = normal(sum(counts), 5, 28, seed=3)
    expected, segments = [], []
    for i, (table, length, count) in enumerate(zip(parts, lengths, counts, strict=True)):
        latents = normal(length, 64, seed=10 + i).bfloat16()
        rows = (table.long()[:, None] * PAGE + torch.arange(PAGE)).flatten()[:length]
        store[rows] = latents
        row = sum(counts[:i])
        expected.append(attend_latent(q[row : row + count], latents, u_k, u_v))
        segments.append(LatentSegment(row, count, length, table))
    assert_close(op(q, store, segments), torch.cat(expected))


def test_scores_far_apart_leave_only_the_largest(latent, normal):
    shape = (3, 32, 12, 16, 16)
    op, u_k, u_v = latent(shape)
    q, latents = inputs(normal, shape, 2, 300)
    got = op(100 * q, latents, [LatentSegment(0, 2, 300)])
    assert_close(got, attend_latent(100 * q, latents, u_k, u_v), 100 * FLOAT32)


def test_bfloat16_queries_give_bfloat16_results(latent, normal):
    shape = (4, 32, 12, 16, 16)
    op, u_k, u_v = latent(shape)
    q, latents = inputs(normal, shape, 2, 100)
    got = op(q.bfloat16(), latents, [LatentSegment(0, 2, 100)])
    assert got.dtype == torch.bfloat16
    assert_close(got, attend_latent(q.bfloat16().float(), latents, u_k, u_v), BFLOAT16)


def test_no_segments_read_nothing(latent, normal):
    op, _, _ = latent((4, 32, 12, 16, 16))
    q, latents = inputs(normal, (4, 32, 12, 16, 16), 0, 3)
    assert op(q, latents, []).shape == (0, 4, 16)


def test_shapes_that_the_kernels_do_not_know_are_named():
    u = torch.zeros(2, 4, 24, dtype=torch.bfloat16)
    assert "rank of 24" in why_not(u, u, 26)
    u = torch.zeros(2, 4, 16, dtype=torch.bfloat16)
    assert "odd" in why_not(u, u, 19)
    assert "float32" in why_not(u.float(), u.float(), 18)
    assert why_not(u, u, 18) is None
