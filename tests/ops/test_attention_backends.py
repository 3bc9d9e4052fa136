"""The torch backend's attention equals the reference, outputs and gradients, on awkward shapes."""

import pytest
import torch

from minicpm.ops.attention import cpu, reference

# Float32 sums of at most 260 terms in another order; measured at most 8e-7 on outputs, 1.7e-6 on gradients.
FLOAT32 = 1e-5

HEADS = [(1, 1), (4, 4), (8, 2), (16, 1), (3, 3)]
LENGTHS = [1, 63, 64, 65, 129]


def qkv(count, length, heads, kv_heads, *, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(count, heads, width), (length, kv_heads, width), (length, kv_heads, width)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def outputs_and_gradients(attend, tensors, weight):
    leaves = [x.clone().requires_grad_() for x in tensors]
    out = attend(*leaves)
    (out * weight).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


def assert_equal_with_gradients(fast, slow, tensors):
    weight = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(9))
    found, wanted = (outputs_and_gradients(attend, tensors, weight) for attend in (fast, slow))
    for name, a, b in zip(("output", "grad q", "grad k", "grad v"), found, wanted, strict=True):
        # Inputs are of size 1; a lone position's gradient on q is exactly 0 and comes out as rounding.
        difference = (a - b).abs().max() / b.abs().max().clamp_min(1)
        assert difference <= FLOAT32, f"{name} differs by {difference:.2e}"


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_fresh_segment(heads, kv_heads, length):
    assert_equal_with_gradients(cpu.attend, reference.attend, qkv(length, length, heads, kv_heads))


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("past", [1, 63, 64, 130])
def test_a_segment_with_a_past(heads, kv_heads, count, past):
    assert_equal_with_gradients(cpu.attend, reference.attend, qkv(count, past + count, heads, kv_heads))


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("segments", [1, 3])
def test_several_fresh_segments_of_one_length(heads, kv_heads, length, segments):
    parts = [qkv(length, length, heads, kv_heads, seed=i) for i in range(segments)]
    tensors = [torch.stack(x) for x in zip(*parts, strict=True)]
    assert_equal_with_gradients(cpu.attend_equal, reference.attend_equal, tensors)


@pytest.mark.parametrize("backend", [cpu, reference], ids=["torch", "reference"])
def test_the_first_position_sees_only_itself(backend):
    q, k, v = qkv(5, 5, 4, 2)
    assert torch.allclose(backend.attend(q, k, v)[0], v[0].repeat_interleave(2, dim=0), atol=1e-6)


@pytest.mark.parametrize("backend", [cpu, reference], ids=["torch", "reference"])
def test_what_comes_later_changes_nothing_earlier(backend):
    q, k, v = qkv(40, 70, 4, 2)
    before = backend.attend(q, k, v)
    k[60:], v[60:] = 100.0, -100.0
    assert torch.equal(backend.attend(q, k, v)[:30], before[:30])


@pytest.mark.parametrize("backend", [cpu, reference], ids=["torch", "reference"])
def test_query_heads_read_their_own_groups_keys_in_order(backend):
    q, k, v = qkv(9, 9, 6, 3)
    whole = backend.attend(q, k, v)
    for head in range(6):
        group = head // 2
        alone = backend.attend(q[:, head : head + 1], k[:, group : group + 1], v[:, group : group + 1])
        assert torch.allclose(whole[:, head], alone[:, 0], atol=1e-6)


@pytest.mark.parametrize("backend", [cpu, reference], ids=["torch", "reference"])
def test_large_scores_do_not_overflow(backend):
    q, k, v = qkv(10, 10, 2, 2)
    out = backend.attend(1e3 * q, 1e3 * k, v)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 65])
def test_half_precision_stays_near_float32(dtype, count):
    # The result is rounded once and the weights before it; torch may round scores in between.
    step = 2**-8 if dtype == torch.bfloat16 else 2**-11
    tensors = [x.to(dtype) for x in qkv(count, 100 if count == 1 else count, 8, 2)]
    wanted = reference.attend(*(x.float() for x in tensors))
    for attend in (cpu.attend, reference.attend):
        out = attend(*tensors)
        assert out.dtype == dtype
        assert (out.float() - wanted).abs().max() <= 2 * step * wanted.abs().max()


def test_keys_and_values_may_be_strided_views():
    q, k, v = qkv(3, 20, 4, 2)
    wide_k, wide_v = torch.full((2, 20, 2, 32), torch.nan)
    wide_k[..., ::2], wide_v[..., ::2] = k, v
    found = cpu.attend(q, wide_k[..., ::2], wide_v[..., ::2])
    assert torch.allclose(found, cpu.attend(q, k, v), atol=1e-6)
