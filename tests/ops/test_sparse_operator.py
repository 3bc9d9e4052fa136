"""Attention to chosen blocks equals dense attention under the mask of the choice, outputs and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.config import SparseConfig
from minicpm.ops.attention import reference as dense
from minicpm.ops.sparse import Scorer, choice, cpu, reference

# Float32 sums of at most 6200 terms in another order; measured at most 8e-7, on gradients too.
FLOAT32 = 2e-5

PUBLISHED = SparseConfig()
SMALL = SparseConfig(kernel_size=8, kernel_stride=4, block_size=16, window_size=32, topk=3)
HEADS = [(1, 1), (4, 2), (16, 1), (3, 3)]


def qkv(count, length, heads, kv_heads, *, width=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(count, heads, width), (length, kv_heads, width), (length, kv_heads, width)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def random_choice(kv_heads, count, length, sparse, *, seed, share=0.5):
    blocks = -(-length // sparse.block_size)
    return torch.rand(kv_heads, count, blocks, generator=torch.Generator().manual_seed(seed)) < share


def masked_dense(q, k, v, chosen, sparse):
    """An independent form: one additive mask, one softmax. Every query must have chosen something."""
    length, group = len(k), q.shape[1] // k.shape[1]
    tokens, positions = torch.arange(length), torch.arange(length - len(q), length)
    allowed = chosen[..., tokens // sparse.block_size] & (tokens <= positions[:, None])
    mask = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, -math.inf)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("thd,nhd->htn", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("htn,nhd->thd", (scores + mask.repeat_interleave(group, 0)).softmax(-1), v)


def outputs_and_gradients(attend, tensors, *more):
    leaves = [x.clone().requires_grad_() for x in tensors]
    out = attend(*leaves, *more)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out * weight).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


def assert_same(found, wanted, bound=FLOAT32):
    for name, a, b in zip(("output", "grad q", "grad k", "grad v"), found, wanted, strict=True):
        difference = ((a - b).abs().max() / b.abs().max().clamp_min(1)).item()
        assert difference <= bound, f"{name} differs by {difference:.2e}"


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize(("count", "length"), [(1, 1), (1, 100), (17, 17), (63, 130), (130, 130), (2, 33)])
def test_attention_to_any_choice_equals_the_reference_with_gradients(heads, kv_heads, count, length):
    tensors = qkv(count, length, heads, kv_heads)
    chosen = random_choice(kv_heads, count, length, SMALL, seed=3)
    found, wanted = (
        outputs_and_gradients(attend, tensors, chosen, SMALL)
        for attend in (cpu.attend_selected, reference.attend_selected)
    )
    assert_same(found, wanted)


@given(
    st.integers(1, 40),
    st.integers(0, 40),
    st.sampled_from([1, 3, 16]),
    st.sampled_from(HEADS),
    st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_attention_to_any_choice_in_any_geometry(count, past, block, heads, seed):
    sparse = SparseConfig(kernel_size=block, kernel_stride=block, block_size=block)
    tensors = qkv(count, past + count, *heads, seed=seed)
    chosen = random_choice(heads[1], count, past + count, sparse, seed=seed)
    found, wanted = (
        outputs_and_gradients(attend, tensors, chosen, sparse)
        for attend in (cpu.attend_selected, reference.attend_selected)
    )
    assert_same(found, wanted)


@pytest.mark.parametrize("module", [cpu, reference], ids=["torch", "reference"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_query_that_chose_nothing_gives_zero_and_no_gradient(module, count):
    tensors = qkv(count, 40, 4, 2)
    chosen = random_choice(2, count, 40, SMALL, seed=1, share=1.0)
    chosen[:, 0] = False
    out, grad_q, grad_k, grad_v = outputs_and_gradients(module.attend_selected, tensors, chosen, SMALL)
    assert not out[0].any()
    assert not grad_q[0].any()
    assert all(torch.isfinite(x).all() for x in (grad_q, grad_k, grad_v))


@pytest.mark.parametrize("module", [cpu, reference], ids=["torch", "reference"])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_gradients_are_those_of_dense_attention_under_the_mask_of_the_choice(module, heads, kv_heads):
    length = 150
    tensors = qkv(length, length, heads, kv_heads)

    def sparse_attention(q, k, v):
        return module.attend(q, k, v, Scorer(q, choice.compress(k, SMALL)), SMALL)

    def under_its_mask(q, k, v):
        chosen = choice.select(q, choice.compress(k, SMALL), length, SMALL)
        return masked_dense(q, k, v, chosen, SMALL)

    assert_same(
        outputs_and_gradients(sparse_attention, tensors), outputs_and_gradients(under_its_mask, tensors)
    )


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize(("count", "length"), [(1, 200), (100, 200), (200, 200), (65, 81), (40, 40)])
def test_the_whole_operator_equals_the_reference(heads, kv_heads, count, length):
    q, k, v = qkv(count, length, heads, kv_heads)
    scorer = Scorer(qkv(count, length, heads, kv_heads, seed=5)[0], choice.compress(k, SMALL))
    found, wanted = (module.attend(q, k, v, scorer, SMALL) for module in (cpu, reference))
    torch.testing.assert_close(found, wanted, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize("module", [cpu, reference], ids=["torch", "reference"])
@pytest.mark.parametrize("count", [1, 60, 150])
def test_scattered_rows_give_what_rows_in_order_give(module, count):
    q, k, v = qkv(count, 150, 4, 2)
    rows = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:150]
    pool_k, pool_v = torch.full((2, 400, 2, 8), torch.nan)
    pool_k[rows], pool_v[rows] = k, v
    scorer = Scorer(q, choice.compress(k, SMALL))
    wanted = module.attend(q, k, v, scorer, SMALL)
    found = module.attend(q, pool_k, pool_v, scorer, SMALL, rows=rows)
    torch.testing.assert_close(found, wanted, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize("length", [15, 16, 31, 32, 63, 64, 127, 300])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_in_chunks_as_in_one_call(length, chunk):
    q, k, v = qkv(length, length, 4, 2)
    whole = cpu.attend(q, k, v, Scorer(q, choice.compress(k, SMALL)), SMALL)
    parts = []
    for first in range(0, length, chunk):
        last = min(first + chunk, length)
        scorer = Scorer(q[first:last], choice.compress(k[:last], SMALL))
        parts.append(cpu.attend(scorer.q, k[:last], v[:last], scorer, SMALL))
    torch.testing.assert_close(torch.cat(parts), whole, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize("length", [63, 2048, 2049, 6143, 6144])
def test_published_geometry_is_dense_up_to_6144_tokens(length):
    """Without the operator's own short cut: chosen blocks are gathered and masked."""
    q, k, v = qkv(min(length, 70), length, 4, 2)
    chosen = choice.select(q, choice.compress(k, PUBLISHED), length, PUBLISHED)
    wanted = dense.attend(q, k, v)
    torch.testing.assert_close(
        cpu.attend_selected(q, k, v, chosen, PUBLISHED), wanted, atol=FLOAT32, rtol=FLOAT32
    )
    found = cpu.attend(q, k, v, Scorer(q, choice.compress(k, PUBLISHED)), PUBLISHED)
    torch.testing.assert_close(found, wanted, atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.parametrize("count", [1, 3, 70])
def test_from_token_6145_on_published_geometry_leaves_blocks_out(count):
    length = 6144 + count
    q, k, v = qkv(count, length, 4, 2)
    compressed = choice.compress(k, PUBLISHED)
    chosen = choice.select(q, compressed, length, PUBLISHED)
    assert chosen.sum(-1).eq(96).all()
    found = cpu.attend(q, k, v, Scorer(q, compressed), PUBLISHED)
    torch.testing.assert_close(found, masked_dense(q, k, v, chosen, PUBLISHED), atol=FLOAT32, rtol=FLOAT32)
    assert not torch.allclose(found, dense.attend(q, k, v), atol=1e-4)


def test_a_budget_that_holds_all_blocks_is_dense_at_any_length():
    sparse = SparseConfig(kernel_size=8, kernel_stride=4, block_size=16, window_size=32, topk=50)
    q, k, v = qkv(300, 300, 4, 2)
    chosen = choice.select(q, choice.compress(k, sparse), 300, sparse)
    found = cpu.attend_selected(q, k, v, chosen, sparse)
    torch.testing.assert_close(found, dense.attend(q, k, v), atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.parametrize("count", [1, 65])
def test_half_precision_stays_near_float32(count):
    q, k, v = qkv(count, 200, 8, 2, dtype=torch.bfloat16)
    chosen = random_choice(2, count, 200, SMALL, seed=1) | (torch.arange(13) == 0)
    wanted = reference.attend_selected(q.float(), k.float(), v.float(), chosen, SMALL)
    for module in (cpu, reference):
        out = module.attend_selected(q, k, v, chosen, SMALL)
        assert out.dtype == torch.bfloat16
        # The result is rounded once and the weights before it, each to 8 bits.
        assert (out.float() - wanted).abs().max() <= 2 * 2**-8 * wanted.abs().max()


def test_what_was_not_chosen_is_not_read():
    q, k, v = qkv(5, 100, 4, 2)
    chosen = torch.zeros(2, 5, 7, dtype=torch.bool)
    chosen[..., [0, 4]] = True
    k[16:64], v[16:64] = torch.nan, torch.nan
    assert torch.isfinite(cpu.attend_selected(q, k, v, chosen, SMALL)).all()
