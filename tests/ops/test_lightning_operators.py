"""All forms of lightning attention equal the recurrence, outputs, states and gradients, on awkward shapes."""

import math

import pytest
import torch

from minicpm.ops.lightning.chunked import chunked, parallel
from minicpm.ops.lightning.decay import alibi_slopes, causal_decay, decay_powers
from minicpm.ops.lightning.reference import recurrent

# Float32 sums of at most 200 terms in another order, over the largest value; measured at most 1.7e-6.
FLOAT32 = 1e-5

FAST = pytest.mark.parametrize("fast", [chunked, parallel], ids=["chunked", "parallel"])
LENGTHS = pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 200])
HEADS, WIDTH, VALUE = 5, 8, 6  # a head count that is no power of two, values narrower than keys


def inputs(length, *, heads=HEADS, width=WIDTH, value=VALUE, lead=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*lead, length, heads, d) for d in (width, width, value)]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q, k, v, torch.randn((*lead, heads, width, value), generator=generator)


def assert_close(found, wanted, name="output"):
    assert found.shape == wanted.shape
    if wanted.numel():
        difference = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1)).item()
        assert difference <= FLOAT32, f"{name} differs by {difference:.2e}"


def settings(heads=HEADS, scale=0.3):
    return {"slopes": alibi_slopes(heads), "scale": scale}


def test_slopes_of_a_power_of_two_are_the_alibi_series():
    slopes = alibi_slopes(32)
    assert slopes.dtype == torch.float32
    assert slopes.tolist() == pytest.approx([2 ** (-0.25 * (h + 1)) for h in range(32)])
    assert alibi_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2.0**-8]


def test_other_head_counts_take_every_second_slope_of_the_next_power():
    assert alibi_slopes(3).tolist() == pytest.approx([2**-4, 2**-8, 2**-2])
    assert alibi_slopes(6).tolist() == pytest.approx([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    for heads in range(1, 70):
        assert len(set(alibi_slopes(heads).tolist())) == heads


def test_the_half_lives_of_32_heads_are_the_published_ones():
    half_lives = math.log(2) / alibi_slopes(32)
    assert half_lives[0].item() == pytest.approx(0.824, abs=1e-3)
    assert half_lives[-1].item() == pytest.approx(177.4, abs=0.1)


@pytest.mark.parametrize("steps", [128, 5000])
def test_decays_of_32_heads_stay_finite_and_in_order_over_long_differences(steps):
    powers = decay_powers(alibi_slopes(32), steps)
    assert powers.isfinite().all()
    assert (powers[:, 0] == 1).all()
    assert (powers.diff(dim=-1) <= 0).all()
    decay = causal_decay(powers, 129)
    assert decay.isfinite().all()
    assert (decay.triu(1) == 0).all()
    assert torch.equal(decay[:, 128, 0], powers[:, 128])


@LENGTHS
def test_the_recurrence_follows_the_formula_written_out(length):
    """Head by head in float64: o_t = scale sum over s of lambda^(t - s) (q_t . k_s) v_s."""
    q, k, v, _ = inputs(length)
    slopes = alibi_slopes(HEADS).double()
    found, state = recurrent(q, k, v, **settings())
    for head in range(HEADS):
        q_h, k_h, v_h = (x[:, head].double() for x in (q, k, v))
        at = torch.arange(length)
        seen = at[:, None] >= at
        decay = torch.exp(-slopes[head] * (at[:, None] - at).clamp_min(0)) * seen
        assert_close(found[:, head].double(), 0.3 * ((q_h @ k_h.T) * decay) @ v_h)
        last = torch.exp(-slopes[head] * (length - 1 - at))
        assert_close(state[head].double(), torch.einsum("t,tk,tv->kv", last, k_h, v_h), "state")


def run(form, tensors, weights, **options):
    leaves = [x.clone().requires_grad_() for x in tensors]
    out, state = form(*leaves, **options)
    ((out * weights[0]).sum() + (state * weights[1]).sum()).backward()
    named = {"output": out, "state": state}
    grads = zip(("q", "k", "v", "state"), leaves, strict=False)
    return {n: x.detach() for n, x in named.items()} | {f"grad {n}": x.grad for n, x in grads}


@FAST
@LENGTHS
@pytest.mark.parametrize("carried", [True, False], ids=["carried", "fresh"])
@pytest.mark.parametrize("heads", [1, 5, 8])
def test_every_form_equals_the_recurrence_with_all_its_gradients(fast, length, carried, heads):
    tensors = inputs(length, heads=heads)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=generator) for x in (tensors[2], tensors[3])]
    given = tensors if carried else tensors[:3]
    found, wanted = (run(form, given, weights, **settings(heads)) for form in (fast, recurrent))
    for name, value in wanted.items():
        assert_close(found[name], value, name)


@FAST
@pytest.mark.parametrize("length", [2, 65, 130])
def test_a_state_carried_over_any_split_equals_the_whole(fast, length):
    q, k, v, state = inputs(length)
    wanted, last = recurrent(q, k, v, state, **settings())
    for cut in sorted({1, length // 2, 63, 64, 65, length - 1} & set(range(1, length))):
        left, middle = fast(q[:cut], k[:cut], v[:cut], state, **settings())
        right, after = fast(q[cut:], k[cut:], v[cut:], middle, **settings())
        assert_close(torch.cat((left, right)), wanted)
        assert_close(after, last, "state")


@pytest.mark.parametrize("form", [recurrent, chunked, parallel])
def test_no_tokens_leave_the_state_as_it_is(form):
    q, k, v, state = inputs(0)
    out, after = form(q, k, v, state, **settings())
    assert out.shape == v.shape
    assert torch.equal(after, state)


@pytest.mark.parametrize("form", [recurrent, chunked, parallel])
def test_leading_axes_are_separate_sequences(form):
    tensors = inputs(70, lead=(3,))
    out, state = form(*tensors, **settings())
    for i, alone in enumerate(zip(*tensors, strict=True)):
        wanted, last = recurrent(*alone, **settings())
        assert_close(out[i], wanted)
        assert_close(state[i], last, "state")


@pytest.mark.parametrize("form", [recurrent, chunked, parallel])
def test_the_incoming_state_is_never_written_to(form):
    q, k, v, state = inputs(70)
    before = state.clone()
    form(q, k, v, state, **settings())
    assert torch.equal(state, before)


@pytest.mark.parametrize("form", [recurrent, chunked, parallel])
def test_half_precision_is_computed_in_float32_and_the_state_stays_there(form):
    q, k, v, state = inputs(70)
    q, k, v = (x.bfloat16() for x in (q, k, v))
    out, after = form(q, k, v, state, **settings())
    wanted, last = recurrent(q.float(), k.float(), v.float(), state, **settings())
    assert out.dtype == torch.bfloat16
    assert after.dtype == torch.float32
    assert_close(after, last, "state")
    # One rounding to 8 bits, and sums that fall to the other side of it.
    assert (out.float() - wanted).abs().max() <= 2**-8 * wanted.abs().max()


@FAST
def test_the_published_sizes_over_many_chunks_stay_near_float64(fast):
    """32 heads of 128 with unit keys: the slowest head sums about 250 tokens."""
    q, k, v, _ = inputs(300, heads=32, width=128, value=128)
    q, k = (torch.nn.functional.normalize(x, dim=-1) * 128**0.5 for x in (q, k))
    found, _ = fast(q, k, v, slopes=alibi_slopes(32), scale=128**-0.5)
    at = torch.arange(300)
    decay = torch.exp(-alibi_slopes(32).double()[:, None, None] * (at[:, None] - at).clamp_min(0)).tril()
    scores = torch.einsum("thd,shd->hts", q.double(), k.double()) * decay * 128**-0.5
    wanted = torch.einsum("hts,shd->thd", scores, v.double())
    assert_close(found.double(), wanted)
