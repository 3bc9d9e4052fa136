"""Matrices are rounded to the nearest codes, with scales that leave little of the error that could go."""

import pytest
import torch

from minicpm.config.holding import group_of, rounded_bytes
from minicpm.ops.quant_tensor import decode, unpack_codes
from minicpm.quant import rounding
from minicpm.quant.rounding import round_to

EITHER = pytest.mark.parametrize("bits", [8, 4])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(rows=33, columns=256, seed=0, dtype=torch.bfloat16):
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 16).to(dtype)


def relative(weight, rounded):
    return ((decode(rounded).float() - weight.float()).norm() / weight.float().norm()).item()


@EITHER
@pytest.mark.parametrize("columns", [256, 192, 96, 32])
def test_bytes_are_those_foretold(bits, columns):
    rounded = round_to(normal(columns=columns), bits)
    assert rounded.nbytes == rounded_bytes((33, columns), bits, 2)
    assert rounded.shape == (33, columns)
    assert rounded.scheme.symmetric
    assert rounded.scheme.group == group_of(columns, bits)


def test_no_weight_is_further_away_than_half_a_step_in_8_bits():
    weight = normal()
    rounded = round_to(weight, 8)
    grouped = weight.float().unflatten(1, (-1, 128))
    # The scale is rounded to bfloat16, by at most 2^-8 of it, which code 127 feels most; so is the result.
    slack = grouped.abs() * 2**-8 + 127 * 2**-8 * rounded.scales.float().abs()[..., None]
    distance = (decode(rounded).float().unflatten(1, (-1, 128)) - grouped).abs()
    assert (distance <= rounded.scales.float().abs()[..., None] / 2 + slack).all()
    assert relative(weight, rounded) < 0.008


def test_4_bits_lose_less_than_the_plain_rule_does():
    """Normal weights lose 9.5 % with the largest weight as code -8, 10.8 % with it as code 7."""
    weight = normal(rows=400)
    assert relative(weight, round_to(weight, 4)) < 0.092
    grouped = weight.float().unflatten(1, (-1, 64))
    scale = grouped.abs().amax(-1, keepdim=True) / 7
    naive = ((grouped / scale).round() * scale - grouped).norm() / grouped.norm()
    assert naive > 0.105


@EITHER
def test_slices_do_not_show(bits, monkeypatch):
    weight = normal()
    whole = round_to(weight, bits)
    monkeypatch.setattr(rounding, "_SLICE", 700)
    sliced = round_to(weight, bits)
    assert torch.equal(whole.codes, sliced.codes)
    assert torch.equal(whole.scales, sliced.scales)


@EITHER
def test_weights_that_fit_the_codes_return_to_the_same_bits(bits):
    half = 2 ** (bits - 1)
    codes = torch.randint(-half + 1, half, (9, 128), generator=torch.Generator().manual_seed(1))
    codes[:, ::32] = -half if bits == 4 else 127
    weight = (codes * 2.0**-7).bfloat16()
    assert torch.equal(decode(round_to(weight, bits)), weight)


@EITHER
def test_groups_of_zeros_stay_zeros_and_their_neighbours_are_not_touched(bits):
    weight = normal()
    weight[:, 128:] = 0
    rounded = round_to(weight, bits)
    assert (decode(rounded)[:, 128:] == 0).all()
    assert torch.equal(decode(rounded)[:, :128], decode(round_to(weight[:, :128], bits)))


@EITHER
@pytest.mark.parametrize("size", [1e-39, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_weights_stay_finite(bits, size):
    weight = (normal(dtype=torch.float32).clamp(-0.1, 0.1) * 10 * size).bfloat16()
    assert decode(round_to(weight, bits)).isfinite().all()


@EITHER
def test_the_peak_of_a_group_keeps_its_sign(bits):
    weight = torch.zeros(2, 64).bfloat16()
    weight[0, 5], weight[1, 5] = 1.0, -1.0
    found = decode(round_to(weight, bits)).float()
    assert torch.allclose(found, weight.float(), atol=0.01)
    assert unpack_codes(round_to(weight, bits).codes, bits, 64)[0, 0] == 2 ** (bits - 1)
