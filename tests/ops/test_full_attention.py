"""Attention over whole segments: the torch backend equals the reference, the reference a plain loop."""

import math

import pytest
import torch

from minicpm.ops.attention import cpu, reference

# Float32 sums of at most 130 terms in another order, of outputs and of gradients.
FLOAT32 = 1e-5

HEADS = [(1, 1), (4, 4), (8, 2), (16, 1), (3, 3)]
LENGTHS = [1, 2, 63, 64, 129]
EITHER = pytest.mark.parametrize("backend", [cpu, reference], ids=["torch", "reference"])


def qkv(segments, length, heads, kv_heads, *, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(segments, length, count, width) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def outputs_and_gradients(attend, tensors):
    leaves = [x.clone().requires_grad_() for x in tensors]
    out = attend(*leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out * weight).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("segments", [1, 3])
def test_the_torch_backend_equals_the_reference_with_gradients(heads, kv_heads, length, segments):
    tensors = qkv(segments, length, heads, kv_heads)
    found = outputs_and_gradients(cpu.attend_full, tensors)
    wanted = outputs_and_gradients(reference.attend_full, tensors)
    for name, a, b in zip(("output", "grad q", "grad k", "grad v"), found, wanted, strict=True):
        # Inputs are of size 1; a lone position's gradient on q is exactly 0 and comes out as rounding.
        difference = (a - b).abs().max() / b.abs().max().clamp_min(1)
        assert difference <= FLOAT32, f"{name} differs by {difference:.2e}"


def plain(q, k, v):
    """One output number at a time, in Python's own floats."""
    segments, length, heads, width = q.shape
    group = heads // k.shape[2]
    out = torch.empty(q.shape, dtype=torch.float64)
    for b in range(segments):
        for t in range(length):
            for h in range(heads):
                query = q[b, t, h].tolist()
                keys = k[b, :, h // group].tolist()
                scores = [sum(x * y for x, y in zip(query, key, strict=True)) for key in keys]
                weights = [math.exp(score / math.sqrt(width)) for score in scores]
                for i in range(width):
                    values = v[b, :, h // group, i].tolist()
                    out[b, t, h, i] = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
    return out


@EITHER
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
def test_attention_is_the_formula(backend, heads, kv_heads):
    tensors = qkv(2, 7, heads, kv_heads, width=4)
    wanted = plain(*tensors)
    found = backend.attend_full(*tensors)
    assert (found.double() - wanted).abs().max() / wanted.abs().max() <= FLOAT32


@EITHER
def test_every_position_sees_all_others(backend):
    q, k, v = qkv(1, 9, 4, 2)
    before = backend.attend_full(q, k, v)
    for changed in range(9):
        other = v.clone()
        other[:, changed] += 1
        assert ((backend.attend_full(q, k, other) - before).abs() > 0).all(), f"nobody saw {changed}"


@EITHER
def test_segments_do_not_see_each_other(backend):
    tensors = qkv(3, 20, 4, 2)
    before = backend.attend_full(*tensors)
    for x in tensors:
        x[1] = torch.nan
    after = backend.attend_full(*tensors)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].isnan().all()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("segments", [2, 3, 8])
def test_a_segment_has_the_same_bits_alone_and_beside_others(length, segments):
    tensors = qkv(segments, length, 8, 2)
    together = cpu.attend_full(*tensors)
    for i in range(segments):
        assert torch.equal(cpu.attend_full(*(x[i : i + 1] for x in tensors))[0], together[i])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    # The result is rounded once and the weights before it; torch may round scores in between.
    step = 2**-8 if dtype == torch.bfloat16 else 2**-11
    tensors = [x.to(dtype) for x in qkv(2, 65, 8, 2)]
    wanted = reference.attend_full(*(x.float() for x in tensors))
    for attend in (cpu.attend_full, reference.attend_full):
        out = attend(*tensors)
        assert out.dtype == dtype
        assert (out.float() - wanted).abs().max() <= 2 * step * wanted.abs().max()


@EITHER
def test_large_scores_do_not_overflow(backend):
    q, k, v = qkv(1, 10, 2, 2)
    assert torch.isfinite(backend.attend_full(1e3 * q, 1e3 * k, v)).all()
