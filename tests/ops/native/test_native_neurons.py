"""The compiled feed-forward of active neurons gives what the dense one gives."""

import pytest
import torch

from minicpm.ops.activations import fatrelu
from minicpm.ops.native.matrix import pack
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.quant_tensor import QuantTensor, Scheme, decode
from minicpm.ops.rms_norm.reference import rms_norm
from minicpm.ops.sparse_ffn.native import NativeNeurons, why_not

EPS, THRESHOLD, SCALE = 1e-5, 0.6, 0.3
_FATRELU = 4  # what becomes of a product, core/matrix.hpp

# hidden, intermediate, columns per scale
PLAIN = [(64, 128, 0), (66, 70, 0), (34, 38, 0), (256, 1000, 0)]
CODES = [(64, 96, 32), (128, 192, 64), (128, 384, 128), (192, 64, 32)]
# One step of a bfloat16 row of at most 4, for sums that fall on the other side of a tie.
STEP = 2**-6


def eight_bits(weight, group):
    grouped = weight.float().unflatten(1, (-1, group))
    scales = grouped.abs().amax(-1) / 127
    codes = (grouped / scales[..., None]).round() + 128
    return QuantTensor(codes.to(torch.uint8).flatten(1), scales, None, Scheme(8, group))


@pytest.fixture
def runtime(native):
    """As many threads as asked for, with the instruction set in turn."""

    def make(threads=2):
        made = Runtime(1)
        made.pool = native.Pool(threads, False)
        return made

    return make


def weights(normal, hidden, inner, group):
    gate, up = (normal(inner, hidden, seed=seed).div(hidden**0.5).bfloat16() for seed in (1, 2))
    down = normal(hidden, inner, seed=3).div(inner**0.5).bfloat16()
    return [eight_bits(x, group) for x in (gate, up, down)] if group else [gate, up, down]


def neurons(parts, runtime, *, threshold=THRESHOLD):
    width = parts[0].shape[1]
    norm = torch.linspace(0.5, 1.5, width).bfloat16()
    options = {"norm": norm, "eps": EPS, "threshold": threshold, "residual_scale": SCALE, "runtime": runtime}
    return NativeNeurons(*parts, **options), norm


def dense(native, runtime, parts, norm, h, *, threshold=THRESHOLD):
    gate, up, down = parts
    weight = norm.float().contiguous()
    joint, down = pack([gate, up], runtime, interleaved=True), pack([down], runtime)
    op = native.Mlp(weight.data_ptr(), EPS, joint.handle, down.handle, _FATRELU, threshold, SCALE)
    out = h.clone()
    for row in out:
        op.run(runtime.pool, runtime.scratch, row.data_ptr(), 1)
    return out


def assert_within_a_step(got, expected):
    assert not got.isnan().any(), "some numbers were never written"
    difference = (got.float() - expected.float()).abs()
    assert difference.max() <= STEP, f"largest difference {difference.max()}"
    assert (difference > 0).float().mean() <= 0.05, "more than a few sums are rounded differently"


@pytest.mark.parametrize("shape", [*PLAIN, *CODES], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_active_neurons_alone_give_what_all_give(native, runtime, normal, rows, shape):
    threads = runtime()
    parts = weights(normal, *shape)
    op, norm = neurons(parts, threads)
    h = normal(rows, shape[0], seed=7).bfloat16()
    got = h.clone()
    op(got)
    assert 0 < op.active < rows * shape[1], "the test wants some neurons active and others not"
    assert_within_a_step(got, dense(native, threads, parts, norm, h))
    assert (got.float() - h.float()).abs().max() > 4 * STEP, "the test wants results that can be told apart"


@pytest.mark.parametrize("shape", PLAIN, ids=str)
def test_plain_weights_give_the_formula(runtime, normal, shape):
    gate, up, down = parts = weights(normal, *shape)
    op, norm = neurons(parts, runtime())
    h = normal(1, shape[0], seed=7).bfloat16()
    got = h.clone()
    op(got)
    x = rms_norm(h, norm, EPS).double()
    inner = fatrelu(x @ gate.double().t(), THRESHOLD) * (x @ up.double().t())
    y = (inner @ down.double().t()).bfloat16().double()  # rounded before it is scaled, as in torch
    assert_within_a_step(got, (h.double() + SCALE * y).bfloat16())


@pytest.mark.parametrize("shape", CODES, ids=str)
def test_codes_give_the_formula_but_for_rounded_activations(runtime, normal, shape):
    parts = weights(normal, *shape)
    op, norm = neurons(parts, runtime())
    h = normal(1, shape[0], seed=7).bfloat16()
    got = h.clone()
    op(got)
    gate, up, down = (decode(part).double() for part in parts)
    x = rms_norm(h, norm, EPS).double()
    inner = fatrelu(x @ gate.t(), THRESHOLD) * (x @ up.t())
    expected = h.double() + SCALE * (inner @ down.t())
    # Eight bits of an activation are half a percent of it, and a neuron near the threshold may switch.
    assert (got.double() - expected).norm() <= 0.15 * (expected - h.double()).norm()


@pytest.mark.parametrize("shape", [(256, 1000, 0), (128, 384, 128)], ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(runtime, normal, threads, shape):
    parts = weights(normal, *shape)
    h = normal(2, shape[0], seed=7).bfloat16()
    many, alone = h.clone(), h.clone()
    neurons(parts, runtime(threads))[0](many)
    neurons(parts, runtime(1))[0](alone)
    assert torch.equal(many, alone)


@pytest.mark.parametrize("shape", [(64, 128, 0), (64, 96, 32)], ids=str)
def test_no_active_neurons_leave_the_rows_as_they_are(runtime, normal, shape):
    op, _ = neurons(weights(normal, *shape), runtime(), threshold=1e9)
    h = normal(2, shape[0], seed=7).bfloat16()
    got = h.clone()
    op(got)
    assert op.active == 0
    assert torch.equal(got, h)


@pytest.mark.parametrize("shape", [(64, 128, 0), (128, 192, 64)], ids=str)
def test_all_neurons_may_be_active(native, runtime, normal, shape):
    threads, parts = runtime(), weights(normal, *shape)
    op, norm = neurons(parts, threads, threshold=-1e9)
    h = normal(1, shape[0], seed=7).bfloat16()
    got = h.clone()
    op(got)
    assert op.active == shape[1]
    assert_within_a_step(got, dense(native, threads, parts, norm, h, threshold=-1e9))


def test_a_neuron_at_the_threshold_itself_is_not_active(runtime):
    width = 64
    gate, up, down = torch.eye(width).bfloat16(), torch.eye(width).bfloat16(), torch.eye(width).bfloat16()
    options = {"norm": torch.ones(width), "eps": 0.0, "residual_scale": 1.0, "runtime": runtime()}
    h = torch.ones(1, width).bfloat16()  # normalised it is itself
    NativeNeurons(gate, up, down, **options, threshold=1.0)(h)
    assert torch.equal(h, torch.ones(1, width).bfloat16())
    NativeNeurons(gate, up, down, **options, threshold=0.99)(h)
    assert torch.equal(h, torch.full((1, width), 2.0).bfloat16())


def test_formats_that_are_not_held_by_neuron_are_named(normal):
    gate, up, down = plain = weights(normal, 64, 96, 0)
    codes = [eight_bits(x, 32) for x in plain]
    assert why_not(*plain) is None
    assert why_not(*codes) is None
    assert "others are not" in why_not(gate, up, codes[2])
    assert "float32" in why_not(gate.float(), up.float(), down.float())
    narrow = [eight_bits(x[:, :32], 32) for x in (gate, up, down[:48])]
    assert "48 outputs" in why_not(*narrow)
