"""Compiled lightning attention agrees with the recurrence, outputs and states."""

import pytest
import torch

from minicpm.ops.lightning.decay import alibi_slopes
from minicpm.ops.lightning.native import Span, advance, continued, why_not
from minicpm.ops.lightning.reference import recurrent
from minicpm.ops.native.runtime import Runtime

# Float32 sums of at most 128 terms in another order, relative to the largest number; measured at most 4e-7.
FLOAT32 = 4e-6
# Inputs are the same numbers; only the result is rounded.
BFLOAT16 = 2**-8

LENGTHS = [1, 2, 17, 63, 64, 65, 129, 1000]
# heads, heads of k and v, widths of keys and values
SHAPES = [(1, 1, 16, 16), (4, 4, 128, 128), (6, 2, 48, 80), (3, 3, 32, 112), (5, 1, 64, 16)]


@pytest.fixture
def runtime(native):
    """As many threads as asked for, with the instruction set in turn."""

    def make(threads=2):
        made = Runtime(1)
        made.pool = native.Pool(threads, False)
        return made

    return make


def inputs(normal, count, shape, *, state=True, dtype=torch.float32):
    heads, shared, keys, values = shape
    sizes = [(count, heads, keys), (count, shared, keys), (count, shared, values)]
    before = normal(heads, keys, values, seed=4) if state else None
    return [normal(*size, seed=seed).to(dtype) for seed, size in enumerate(sizes)], before


def wanted(q, k, v, state, scale):
    """The recurrence on the same numbers in float32."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.float() for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    return recurrent(q, k, v, state, slopes=alibi_slopes(q.shape[1]), scale=scale)


def assert_close(got, expected, tolerance=FLOAT32):
    assert not got.isnan().any(), "some numbers were never written"
    difference = (got.float() - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item()), f"largest difference {difference}"


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_any_length_gives_the_outputs_and_the_state_of_the_recurrence(runtime, normal, length, shape, state):
    (q, k, v), before = inputs(normal, length, shape, state=state)
    got = continued(q, k, v, before, slopes=alibi_slopes(shape[0]), scale=0.3, runtime=runtime())
    for found, expected in zip(got, wanted(q, k, v, before, 0.3), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 70])
def test_threads_change_no_bit(runtime, normal, length, threads):
    (q, k, v), before = inputs(normal, length, (7, 7, 32, 48))
    options = {"slopes": alibi_slopes(7), "scale": 1.0}
    many = continued(q, k, v, before, **options, runtime=runtime(threads))
    alone = continued(q, k, v, before, **options, runtime=runtime(1))
    assert all(torch.equal(a, b) for a, b in zip(many, alone, strict=True))


@pytest.mark.parametrize("length", [1, 65])
def test_bfloat16_is_widened_before_and_rounded_after(runtime, normal, length):
    (q, k, v), before = inputs(normal, length, (4, 2, 64, 64), dtype=torch.bfloat16)
    out, state = continued(q, k, v, before, slopes=alibi_slopes(4), scale=0.1, runtime=runtime())
    expected, expected_state = wanted(q, k, v, before, 0.1)
    assert out.dtype == torch.bfloat16
    assert_close(out, expected, BFLOAT16)
    assert_close(state, expected_state)


@pytest.mark.parametrize("length", [1, 65])
def test_a_state_handed_in_is_not_written_to(runtime, normal, length):
    (q, k, v), before = inputs(normal, length, (2, 2, 32, 32))
    kept = before.clone()
    continued(q, k, v, before, slopes=alibi_slopes(2), scale=1.0, runtime=runtime())
    assert torch.equal(before, kept)


@pytest.mark.parametrize("length", [1, 20, 130])
def test_a_state_can_be_replaced_in_its_place(runtime, normal, length):
    (q, k, v), before = inputs(normal, length, (3, 3, 32, 32))
    options = {"slopes": alibi_slopes(3), "scale": 1.0, "runtime": runtime()}
    out, state = continued(q, k, v, before, **options)
    again = advance(q, k, v, [Span(before, before, 0, length)], **options)
    assert torch.equal(again, out)
    assert torch.equal(before, state)


def test_spans_of_several_sequences_are_as_each_alone(runtime, normal):
    counts, shape = [1, 63, 1, 65, 200], (4, 4, 32, 48)
    (q, k, v), _ = inputs(normal, sum(counts), shape)
    states = [normal(4, 32, 48, seed=10 + i) if i % 2 else None for i in range(len(counts))]
    after = [torch.full((4, 32, 48), torch.nan) for _ in counts]
    rows = [sum(counts[:i]) for i in range(len(counts))]
    options = {"slopes": alibi_slopes(4), "scale": 0.5, "runtime": runtime(3)}
    spans = [Span(*part) for part in zip(states, after, rows, counts, strict=True)]
    out = advance(q, k, v, spans, **options)
    for span in spans:
        part = slice(span.row, span.row + span.count)
        expected, state = continued(q[part], k[part], v[part], span.before, **options)
        assert torch.equal(out[part], expected)
        assert torch.equal(span.after, state)


def test_a_span_goes_on_from_one_before_it(runtime, normal):
    (q, k, v), before = inputs(normal, 150, (2, 2, 32, 32))
    marks = [torch.full((2, 32, 32), torch.nan) for _ in range(3)]
    cuts = [(before, marks[0], 0, 22), (marks[0], marks[1], 22, 64), (marks[1], marks[2], 86, 64)]
    options = {"slopes": alibi_slopes(2), "scale": 0.5, "runtime": runtime()}
    out = advance(q, k, v, [Span(*cut) for cut in cuts], **options)
    expected, state = wanted(q, k, v, before, 0.5)
    assert_close(out, expected)
    assert_close(marks[2], state)


def test_rows_may_be_parts_of_wider_ones(runtime, normal):
    joint = normal(40, 3 * 4 * 32)
    q, k, v = (x.unflatten(1, (4, 32)) for x in joint.split(4 * 32, dim=1))
    options = {"slopes": alibi_slopes(4), "scale": 1.0, "runtime": runtime()}
    parts, copies = (continued(*x, **options) for x in ((q, k, v), (q.clone(), k.clone(), v.clone())))
    assert all(torch.equal(a, b) for a, b in zip(parts, copies, strict=True))


def test_the_fastest_forgetting_head_leaves_no_number_out_of_range(runtime, normal):
    (q, k, v), before = inputs(normal, 128, (1, 1, 16, 16))
    slopes = torch.tensor([3.0])  # e^-192 over a chunk is below float32
    got = continued(q, k, v, before, slopes=slopes, scale=1.0, runtime=runtime())
    for found, expected in zip(got, recurrent(q, k, v, before, slopes=slopes, scale=1.0), strict=True):
        assert_close(found, expected)


def test_no_tokens_leave_the_state_as_it_is(runtime, normal):
    (q, k, v), before = inputs(normal, 0, (2, 2, 16, 16))
    out, state = continued(q, k, v, before, slopes=alibi_slopes(2), scale=1.0, runtime=runtime())
    assert out.shape == (0, 2, 16)
    assert torch.equal(state, before)


@pytest.mark.parametrize(("keys", "values"), [(24, 16), (16, 8), (272, 16)])
def test_widths_that_the_kernels_do_not_know_are_named(keys, values):
    reason = "wider" if keys > 256 else f"keys {keys} and values {values} wide"
    assert reason in why_not(keys, values)
    assert why_not(128, 128) is None
