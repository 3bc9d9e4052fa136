"""Rotations and norms against their formulas in float64, and the choice of a backend."""

import math

import pytest
import torch

from minicpm.config import DefaultRope, DynamicNTKRope, LinearRope, LongRope, rope_tables
from minicpm.errors import BadParameter
from minicpm.ops.backend import REFERENCE, TORCH, choose_backend
from minicpm.ops.rms_norm.reference import rms_norm
from minicpm.ops.rope import Angles, rope_angles
from minicpm.ops.rope.reference import rotate

POSITIONS = [0, 1, 2, 63, 64, 1000, 4095, 32767, 131071]
# A float32 angle of p radians is exact to about p * 2^-23, from rounding positions, frequencies and product.
PER_RADIAN = 3 * 2**-24


def exact_angles(position, frequencies):
    return [position * frequency for frequency in frequencies]


def inverse(theta, dim):
    return [theta ** (-2 * i / dim) for i in range(dim // 2)]


S32 = rope_tables.MINICPM4_SMALL
ROPES = [
    (DefaultRope(1e4, 64), inverse(1e4, 64), 1.0),
    (DefaultRope(5e6, 128), inverse(5e6, 128), 1.0),
    (LinearRope(1e4, 64, 4.0), [f / 4 for f in inverse(1e4, 64)], 1.0),
    (DynamicNTKRope(1e4, 64, 4.0, 4096, 4096), inverse(1e4, 64), 1.0),
    (DynamicNTKRope(1e4, 64, 4.0, 4096, 8192), inverse(1e4 * 5 ** (64 / 62), 64), 1.0),
    (
        LongRope(1e4, 64, S32, S32[::-1], 32768, 32768, 1.0),
        [f / x for f, x in zip(inverse(1e4, 64), S32, strict=True)],
        1.0,
    ),
    (
        LongRope(1e4, 64, S32[::-1], S32, 32768, 65536, 1.03),
        [f / x for f, x in zip(inverse(1e4, 64), S32, strict=True)],
        1.03,
    ),
]


@pytest.mark.parametrize(("rope", "frequencies", "scale"), ROPES, ids=lambda x: type(x).__name__)
def test_angles_follow_the_formula(rope, frequencies, scale):
    found = rope_angles(rope, torch.tensor(POSITIONS))
    assert found.cos.dtype == found.sin.dtype == torch.float32
    for row, position in enumerate(POSITIONS):
        for column, angle in enumerate(exact_angles(position, frequencies)):
            tolerance = 1e-6 + 4 * PER_RADIAN * angle
            assert found.cos[row, column].item() == pytest.approx(scale * math.cos(angle), abs=tolerance)
            assert found.sin[row, column].item() == pytest.approx(scale * math.sin(angle), abs=tolerance)


def test_angles_are_made_where_the_positions_are():
    angles = rope_angles(DefaultRope(1e4, 8), torch.arange(3, device="meta"))
    assert angles.cos.device.type == "meta"


def test_rotation_turns_halves_and_keeps_lengths():
    x = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    angles = rope_angles(DefaultRope(1e4, 8), torch.arange(5))
    turned = rotate(x, angles)
    wanted = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1).contiguous())
    wanted = torch.view_as_real(wanted * torch.complex(*angles)[:, None])
    assert torch.allclose(turned, torch.cat((wanted[..., 0], wanted[..., 1]), dim=-1), atol=1e-6)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_scores_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 64, generator=generator)
    rope = DefaultRope(1e4, 64)

    def score(i, j):
        at_i, at_j = (rope_angles(rope, torch.tensor([p])) for p in (i, j))
        return (rotate(q, at_i) * rotate(k, at_j)).sum().item()

    assert score(7, 3) == pytest.approx(score(1007, 1003), abs=1e-3)


def test_rotation_happens_in_float32_and_returns_the_inputs_dtype():
    x = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    angles = rope_angles(DefaultRope(1e4, 8), torch.tensor([10, 20, 30]))
    assert torch.equal(rotate(x, angles), rotate(x.float(), angles).bfloat16())


def test_no_angle_is_no_rotation():
    x = torch.randn(2, 3, 8)
    assert torch.equal(rotate(x, Angles(torch.ones(2, 4), torch.zeros(2, 4))), x)


@pytest.mark.parametrize("width", [1, 63, 64, 1000])
def test_rms_norm_follows_its_formula(width):
    generator = torch.Generator().manual_seed(width)
    x, weight = torch.randn(3, width, generator=generator), torch.randn(width, generator=generator)
    wanted = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert torch.allclose(rms_norm(x, weight, 1e-5).double(), wanted, atol=1e-5)


def test_rms_norm_rounds_before_its_weight():
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(4, 32, generator=generator).bfloat16() for _ in range(2))
    unweighted = rms_norm(x.float(), torch.ones(32), 1e-6).bfloat16()
    assert torch.equal(rms_norm(x, weight[0], 1e-6), unweighted * weight[0])


def test_rms_norm_of_zeros_is_zero():
    assert torch.equal(rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6), torch.zeros(2, 8))


def test_large_bfloat16_values_do_not_overflow_in_the_square():
    x = torch.full((1, 8), 1e18, dtype=torch.bfloat16)
    assert torch.isfinite(rms_norm(x, torch.ones(8, dtype=torch.bfloat16), 1e-6)).all()


@pytest.mark.parametrize(("name", "backend"), [("reference", REFERENCE), ("torch", TORCH), ("auto", TORCH)])
def test_backends_are_chosen_by_name(name, backend):
    assert choose_backend(name) is backend


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(
        BadParameter, match=r"'cuda' is not known\. Use one of: auto, native, reference, torch"
    ):
        choose_backend("cuda")
