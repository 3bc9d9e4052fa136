"""Attention over latents equals its reference in both forms, outputs and gradients, on awkward shapes."""

import math

import pytest
import torch

from minicpm.ops.latent import cpu, reference
from minicpm.ops.latent.expansion import expand, widened

# Float32 sums of at most 200 terms in another order, moved through one more product; measured at most 1.4e-6.
FLOAT32 = 1e-5

# heads, rank, nope, rope, value
SHAPES = [(1, 8, 4, 2, 6), (4, 20, 12, 16, 16), (3, 16, 8, 4, 5), (5, 4, 7, 2, 9)]
COUNTS = [1, 2, 63, 65]
PASTS = [0, 1, 64, 130]
FORMS = [cpu.attend_latent, cpu.attend_absorbed, cpu.attend_expanded]

EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)
EVERY_FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
EVERY_FORM_AND_THE_REFERENCE = pytest.mark.parametrize(
    "form", [*FORMS, reference.attend_latent], ids=["chosen", "absorbed", "expanded", "reference"]
)


def tensors(shape, count, past, *, seed=0):
    heads, rank, nope, rope, value = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [
        (count, heads, nope + rope),
        (past + count, rank + rope),
        (heads, nope, rank),
        (heads, value, rank),
    ]
    q, latents, u_k, u_v = (torch.randn(size, generator=generator) for size in sizes)
    return [q, latents, u_k / rank**0.5, u_v / rank**0.5]


def outputs_and_gradients(attend, inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = attend(*leaves)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out * weight).sum().backward()
    return [out.detach(), *(x.grad for x in leaves)]


@EVERY_FORM
@EVERY_SHAPE
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("past", PASTS)
def test_every_form_equals_the_reference_with_all_gradients(form, shape, count, past):
    inputs = tensors(shape, count, past)
    found, wanted = (outputs_and_gradients(attend, inputs) for attend in (form, reference.attend_latent))
    for name, a, b in zip(
        ("output", "grad q", "grad latents", "grad u_k", "grad u_v"), found, wanted, strict=True
    ):
        # Inputs are of size 1; a lone position's gradient on q is exactly 0 and comes out as rounding.
        difference = (a - b).abs().max() / b.abs().max().clamp_min(1)
        assert difference <= FLOAT32, f"{name} differs by {difference:.2e}"


@EVERY_FORM_AND_THE_REFERENCE
@EVERY_SHAPE
def test_it_follows_the_published_formula_head_by_head(form, shape):
    q, latents, u_k, u_v = tensors(shape, 4, 3)
    heads, rank, nope, rope, value = shape
    wanted = torch.zeros(4, heads, value)
    for head in range(heads):
        for t in range(4):
            seen = latents[: 3 + t + 1]
            c, shared = seen[:, :rank], seen[:, rank:]
            nope_scores = (c @ u_k[head].T) @ q[t, head, :nope]
            scores = (nope_scores + shared @ q[t, head, nope:]) / math.sqrt(nope + rope)
            wanted[t, head] = scores.softmax(0) @ (c @ u_v[head].T)
    assert torch.allclose(form(q, latents, u_k, u_v), wanted, atol=1e-5)


@EVERY_FORM_AND_THE_REFERENCE
def test_what_comes_later_changes_nothing_earlier(form):
    q, latents, u_k, u_v = tensors(SHAPES[1], 40, 30)
    before = form(q, latents, u_k, u_v)
    latents[60:] = 100.0
    assert torch.equal(form(q, latents, u_k, u_v)[:30], before[:30])


@EVERY_FORM_AND_THE_REFERENCE
def test_one_matrix_may_hold_what_makes_keys_and_values(form):
    """As a view of the published projection, [H, nope + value, r]."""
    q, latents, u_k, u_v = tensors(SHAPES[2], 3, 20)
    joint = torch.cat((u_k, u_v), dim=1)
    nope = u_k.shape[1]
    assert torch.equal(form(q, latents, joint[:, :nope], joint[:, nope:]), form(q, latents, u_k, u_v))


@EVERY_FORM_AND_THE_REFERENCE
def test_latents_may_be_a_strided_view_among_garbage(form):
    q, latents, u_k, u_v = tensors(SHAPES[1], 3, 20)
    wide = torch.full((2 * len(latents), latents.shape[1] + 5), torch.nan)
    wide[::2, :-5] = latents
    assert torch.allclose(form(q, wide[::2, :-5], u_k, u_v), form(q, latents, u_k, u_v), atol=1e-6)


@EVERY_FORM_AND_THE_REFERENCE
def test_large_scores_do_not_overflow(form):
    q, latents, u_k, u_v = tensors(SHAPES[1], 10, 0)
    assert form(1e3 * q, 1e3 * latents, u_k, u_v).isfinite().all()


@EVERY_FORM
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("count", "past"), [(1, 99), (65, 0), (5, 60)])
def test_half_precision_stays_near_float32(form, dtype, count, past):
    # Rounded are the result, the weights of the rows, and once either keys and values or moved queries and
    # context; each is a sum of terms of size 1. Measured at most 1.5 steps.
    step = 2**-8 if dtype == torch.bfloat16 else 2**-11
    inputs = [x.to(dtype) for x in tensors(SHAPES[1], count, past)]
    wanted = reference.attend_latent(*(x.float() for x in inputs))
    out = form(*inputs)
    assert out.dtype == dtype
    assert (out.float() - wanted).abs().max() <= 2 * step * wanted.abs().max()


@pytest.mark.parametrize("heads_at_once", [1, 2, 3])
def test_heads_are_expanded_a_few_at_a_time_where_memory_is_short(monkeypatch, heads_at_once):
    inputs = tensors((5, 20, 12, 16, 16), 65, 30)
    wanted = cpu.attend_expanded(*inputs)
    expanded = []
    monkeypatch.setattr(cpu, "_EXPANDED_BYTES", heads_at_once * 2 * 95 * 28 * 4)
    monkeypatch.setattr(
        cpu, "expand", lambda rows, u_k, u_v: expanded.append(len(u_k)) or expand(rows, u_k, u_v)
    )
    assert torch.allclose(cpu.attend_latent(*inputs), wanted, atol=1e-6)
    assert sum(expanded) == 5
    assert max(expanded) == heads_at_once


@pytest.fixture
def threads():
    """Sets how many threads there are, for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_heads_are_parted_among_threads_without_changing_what_they_read(threads, count):
    inputs = tensors((6, 20, 12, 16, 16), 3, 70)
    threads(count)
    assert torch.allclose(cpu.attend_absorbed(*inputs), reference.attend_latent(*inputs), atol=1e-5)


def test_at_the_published_size_few_queries_are_absorbed_and_many_expand():
    u_k, u_v = torch.empty(2, 40, 64, 256, device="meta")
    absorbed = {count for count in range(1, 200) if cpu.absorbing_is_cheaper(count, 4096, u_k, u_v)}
    assert absorbed == set(range(1, max(absorbed) + 1))
    assert 32 <= max(absorbed) <= 85  # 85 = 256 * 128 / (2 * 256 - 128), what an endless past would give
    assert not any(cpu.absorbing_is_cheaper(count, count, u_k, u_v) for count in (1, 2, 100))


def test_values_wider_than_keys_are_not_known():
    with pytest.raises(AssertionError, match="wider than keys of 3"):
        widened(torch.zeros(1, 1, 4), 3)
