"""Blocks are chosen as the slow reference chooses them, and the same whatever comes with a query."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.config import SparseConfig
from minicpm.config.sparse import chosen_blocks, local_blocks, visible_kernels
from minicpm.ops.sparse import choice, reference

# Float32 products of at most 128 terms and softmaxes in another order; measured at most 1e-6.
FLOAT32 = 1e-5

PUBLISHED = SparseConfig()
SMALL = SparseConfig(kernel_size=8, kernel_stride=4, block_size=16, window_size=32, topk=3)
BOUNDARIES = [15, 16, 31, 32, 63, 64, 127]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def keys_and_queries(length, heads, kv_heads, width=8, **options):
    return normal(length, heads, width, **options), normal(length, kv_heads, width, **options | {"seed": 1})


@st.composite
def geometries(draw):
    stride = draw(st.sampled_from([1, 2, 4]))
    block = stride * draw(st.integers(1, 4))
    window = block * draw(st.integers(0, 3))
    local = draw(st.none() | st.integers(1, window // block + 1))
    init = draw(st.integers(0, 2))
    forced = init + (window // block + 1 if local is None else local)
    return SparseConfig(
        kernel_size=stride * draw(st.integers(1, 4)),
        kernel_stride=stride,
        init_blocks=init,
        block_size=block,
        window_size=window,
        topk=max(forced - window // block, 1) + draw(st.integers(0, 3)),
        local_blocks=local,
    )


@st.composite
def cases(draw):
    """A geometry, a length, how many of its last positions are queries, heads and key/value heads, a seed."""
    length = draw(st.integers(1, 48))
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 5]))
    return draw(geometries()), length, draw(st.integers(1, length)), heads, kv_heads, draw(st.integers(0, 99))


EXAMPLES = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 47, 48, 64, 129])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compressed_keys_are_means_of_whole_windows(n, dtype):
    k = normal(n, 2, 6, dtype=dtype)
    found = choice.compress(k, PUBLISHED)
    assert found.dtype == dtype
    assert found.shape == (max(0, (n - 32) // 16 + 1), 2, 6)
    torch.testing.assert_close(found, reference.compress(k, PUBLISHED))
    for j, row in enumerate(found):
        torch.testing.assert_close(row, k[16 * j : 16 * j + 32].float().mean(0).to(dtype))


@given(cases())
@EXAMPLES
def test_a_compressed_key_does_not_depend_on_those_made_with_it(case):
    sparse, length, count, _, kv_heads, seed = case
    k = normal(length, kv_heads, 4, seed=seed)
    whole, part = choice.compress(k, sparse), choice.compress(k[:count], sparse)
    torch.testing.assert_close(whole, reference.compress(k, sparse))
    assert torch.equal(part, whole[: len(part)])


def test_a_kernel_is_visible_from_its_last_token_on():
    for position in range(300):
        wanted = sum(16 * j + 31 <= position for j in range(50))
        assert visible_kernels(position, PUBLISHED) == wanted == max(0, (position + 1) // 16 - 1)


@given(cases())
@EXAMPLES
def test_kernels_are_scored_as_by_the_reference(case):
    sparse, length, count, heads, kv_heads, seed = case
    q, k = keys_and_queries(length, heads, kv_heads, seed=seed)
    compressed = choice.compress(k, sparse)
    wanted = reference.score_kernels(q[length - count :], compressed, length, sparse)
    found = choice.score_kernels(q[length - count :], compressed, length, sparse)
    torch.testing.assert_close(found, wanted[..., : found.shape[-1]], atol=FLOAT32, rtol=FLOAT32)
    assert not wanted[..., found.shape[-1] :].any()


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (16, 1), (6, 3), (4, 4)])
def test_scores_are_a_masked_softmax_summed_over_the_group(heads, kv_heads):
    length, width = 150, 8
    q, k = keys_and_queries(length, heads, kv_heads, width)
    compressed = reference.compress(k, PUBLISHED).double()
    logits = torch.einsum("tghd,jgd->ghtj", q.double().unflatten(1, (kv_heads, -1)), compressed) / width**0.5
    t, j = torch.arange(length)[:, None], torch.arange(len(compressed))
    wanted = logits.masked_fill(16 * j + 31 > t, -math.inf).softmax(-1).nan_to_num(0).sum(1)
    for module in (reference, choice):
        found = module.score_kernels(q, compressed.float(), length, PUBLISHED)
        torch.testing.assert_close(found, wanted.float(), atol=FLOAT32, rtol=FLOAT32)
    assert torch.allclose(found[:, 31:].sum(-1), torch.tensor(heads / kv_heads), atol=1e-4)


def test_a_block_is_scored_by_the_five_kernels_that_touch_it():
    scores = normal(2, 3, 40).abs()
    for module in (reference, choice):
        found = module.score_blocks(scores, 10, PUBLISHED)
        for b in range(10):
            window = [j for j in range(4 * b - 1, 4 * b + 4) if 0 <= j < 40]
            assert torch.equal(found[..., b], scores[..., window].amax(-1))


@given(cases())
@EXAMPLES
def test_blocks_are_scored_as_by_the_reference(case):
    sparse, length, count, _, kv_heads, seed = case
    scores = normal(kv_heads, count, visible_kernels(length - 1, sparse), seed=seed).abs()
    blocks = -(-length // sparse.block_size)
    found = choice.score_blocks(scores, blocks, sparse)
    assert torch.equal(found, reference.score_blocks(scores, blocks, sparse))


@given(cases())
@EXAMPLES
def test_blocks_are_chosen_as_by_the_reference_also_where_scores_are_equal(case):
    sparse, length, count, _, kv_heads, seed = case
    blocks = -(-length // sparse.block_size)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (kv_heads, count, blocks), generator=generator).float()
    found = choice.choose(scores, length, sparse)
    assert torch.equal(found, reference.choose(scores, length, sparse))


@given(cases())
@EXAMPLES
def test_the_choice_keeps_its_promises(case):
    """Init blocks, the window, the budget, nothing later: for any scores, with queries in any number."""
    sparse, length, count, heads, kv_heads, seed = case
    q, k = keys_and_queries(length, heads, kv_heads, seed=seed)
    chosen = choice.select(q[length - count :], choice.compress(k, sparse), length, sparse)
    check_promises(chosen, length, sparse)


def check_promises(chosen, length, sparse):
    kv_heads, count, blocks = chosen.shape
    assert blocks == -(-length // sparse.block_size)
    own = torch.arange(length - count, length) // sparse.block_size
    block = torch.arange(blocks)
    past = block <= own[:, None]
    forced = (block < sparse.init_blocks) | (block > own[:, None] - local_blocks(sparse))
    assert not (chosen & ~past).any(), "a later block was chosen"
    assert (chosen | ~(forced & past)).all(), "a forced block was not chosen"
    wanted = (own + 1).clamp_max(chosen_blocks(sparse))
    assert torch.equal(chosen.sum(-1), wanted.expand(kv_heads, count)), "the budget is not used exactly"


@pytest.mark.parametrize("length", [*range(2047, 2114, 11), 6143, 6144, 6145, 6208, 6209, 8191, 8192, 8257])
def test_published_sets_hold_the_first_block_and_the_last_2048_tokens(length):
    q, k = keys_and_queries(length, 2, 1, width=4)
    queries = q[-70:]
    chosen = choice.select(queries, choice.compress(k, PUBLISHED), length, PUBLISHED)
    check_promises(chosen, length, PUBLISHED)
    assert chosen.sum(-1).max() <= 96
    for t, position in enumerate(range(length - len(queries), length)):
        needed = {0} | {token // 64 for token in range(max(0, position - 2047), position + 1)}
        assert chosen[0, t, sorted(needed)].all()


def test_published_geometry_chooses_33_local_blocks_and_96_in_all():
    assert (chosen_blocks(PUBLISHED), local_blocks(PUBLISHED)) == (96, 33)


def test_the_earlier_bookkeeping_is_reproduced_by_its_local_blocks():
    """Top 64 beside the window of 32 blocks that attention added, scaled down to top 4 beside 3."""
    sparse = replace(SMALL, window_size=48, topk=4, local_blocks=3)
    length = 400
    blocks = length // 16
    scores = normal(2, length, blocks).abs()
    found = choice.choose(scores, length, sparse)
    for t in range(length):
        own = t // 16
        window = set(range(max(0, own - 2), own + 1))
        rated = scores[:, t].clone()
        rated[:, 0] = math.inf
        rated[:, sorted(window)] = -math.inf
        for g in range(2):
            best = rated[g].masked_fill(torch.arange(blocks) > own, -math.inf).topk(4).indices.tolist()
            wanted = window | {b for b in best if b <= own}
            assert set(found[g, t].nonzero().flatten().tolist()) == wanted


def test_equal_scores_choose_earlier_blocks():
    scores = torch.ones(1, 1, 12)
    chosen = choice.choose(scores, 12 * 16, SMALL)[0, 0]
    assert chosen.nonzero().flatten().tolist() == [0, 1, 9, 10, 11]
    assert torch.equal(chosen, reference.choose(scores, 12 * 16, SMALL)[0, 0])


def test_a_later_block_never_takes_the_place_of_one_whose_score_vanished():
    scores = torch.zeros(1, 64, 12)
    scores[..., 9:] = 5.0
    chosen = choice.choose(scores, 9 * 16, SMALL)
    check_promises(choice.choose(scores[..., :9], 9 * 16, SMALL), 9 * 16, SMALL)
    assert chosen.sum(-1).eq(5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(2, 1, 8), (4, 4, 6), (16, 1, 16), (5, 1, 10)])
def test_the_choice_is_the_same_bits_in_any_chunks(dtype, heads, kv_heads, width):
    length = 500
    q, k = keys_and_queries(length, heads, kv_heads, width, dtype=dtype)
    compressed = choice.compress(k, SMALL)
    scores = choice.score_kernels(q, compressed, length, SMALL)
    whole = choice.select(q, compressed, length, SMALL)
    for chunk in (1, 3, 16, 63, 64, 200):
        for first in range(0, length, chunk if chunk > 1 else 7):
            last = min(first + chunk, length)
            part = choice.compress(k[:last], SMALL)
            found = choice.score_kernels(q[first:last], part, last, SMALL)
            assert torch.equal(found, scores[:, first:last, : found.shape[-1]])
            chosen = choice.select(q[first:last], part, last, SMALL)
            assert torch.equal(chosen, whole[:, first:last, : chosen.shape[-1]])


@pytest.mark.parametrize("length", [*BOUNDARIES, 200])
def test_the_whole_choice_equals_the_reference(length):
    q, k = keys_and_queries(length, 4, 2)
    compressed = choice.compress(k, SMALL)
    found = choice.select(q, compressed, length, SMALL)
    assert torch.equal(found, reference.select(q, compressed, length, SMALL))


def test_the_choice_has_no_gradient():
    q, k = (x.requires_grad_() for x in keys_and_queries(100, 4, 2))
    compressed = choice.compress(k, SMALL)
    assert not compressed.requires_grad
    assert not choice.score_kernels(q, compressed, 100, SMALL).requires_grad
