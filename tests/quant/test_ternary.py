"""Ternary matrices are recognised exactly, with their group size, and packed without losing a bit."""

import pytest
import torch

from minicpm.errors import NotTernary
from minicpm.ops.quant_tensor import decode
from minicpm.quant.ternary import Fit, common_group, measure, pack, packed_bytes, ternarise

EVERY_GROUP = pytest.mark.parametrize("group", ["row", 256, 128, 64, 32])
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def random_matrix(rows=9, columns=256, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 16


def test_the_quantiser_is_the_published_one():
    weight = torch.tensor([[0.5, -0.1, 0.2, 0.0, -1.0, 0.4, 0.6, -0.4]])
    # s = 0.4, then w / s = 1.25, -0.25, 0.5, 0, -2.5, 1, 1.5, -1; halves round to even.
    wanted = 0.4 * torch.tensor([[1.0, 0, 0, 0, -1, 1, 1, -1]])
    assert torch.allclose(ternarise(weight, "row"), wanted)
    halves = torch.cat([ternarise(part, "row") for part in weight.split(4, dim=1)], dim=1)
    assert torch.equal(ternarise(weight, 4), halves)


def test_groups_of_zeros_stay_zeros():
    weight = torch.zeros(2, 64)
    assert torch.equal(ternarise(weight, 32), weight)
    assert measure(weight).groups == ("row", 64, 32)
    assert torch.equal(decode(pack(weight, "row")), weight)


@EVERY_GROUP
@EVERY_DTYPE
def test_the_group_of_a_ternary_matrix_is_found(group, dtype):
    fit = measure(ternarise(random_matrix().to(dtype), group))
    everything = ["row", 256, 128, 64, 32]
    largest = "row" if group == 256 else group  # a row is one group of 256
    assert list(fit.groups) == everything[everything.index(largest) :]


@EVERY_GROUP
@EVERY_DTYPE
def test_a_ternary_matrix_returns_from_its_packed_form(group, dtype):
    weight = ternarise(random_matrix().to(dtype), group)
    packed = pack(weight, group)
    assert torch.equal(decode(packed), weight)
    assert packed.dtype == dtype
    assert packed.nbytes == packed_bytes(weight.shape, group, dtype)


def test_any_group_that_fits_gives_the_same_numbers():
    weight = ternarise(random_matrix(), 128)
    assert all(torch.equal(decode(pack(weight, group)), weight) for group in measure(weight).groups)


def test_the_scale_is_the_magnitude_and_not_the_mean():
    weight = torch.tensor([[0.0, 0.75, 0.0, -0.75] * 8])
    assert pack(weight, 32).scales.tolist() == [[0.75]]


@pytest.mark.parametrize("columns", [96, 33, 7, 160])
def test_widths_that_few_powers_of_two_divide(columns):
    groups = measure(ternarise(random_matrix(columns=columns), "row")).groups
    assert groups == {96: ("row", 32), 33: ("row",), 7: ("row",), 160: ("row", 32)}[columns]


def test_packing_in_groups_that_do_not_fit_is_a_mistake_of_the_caller():
    with pytest.raises(AssertionError, match="groups of 64"):
        pack(ternarise(random_matrix(), 32), 64)


def test_a_single_other_value_makes_a_matrix_not_ternary():
    weight = ternarise(random_matrix(), 32).abs() + 0.0
    row, column = (weight > 0).nonzero()[5].tolist()
    scale = weight[row, column].clone()
    weight[row, column] = scale * 0.75
    fit = measure(weight)
    assert fit.groups == ()
    assert fit.broken == pytest.approx(1 / (9 * 8))
    assert fit.deviation == pytest.approx(0.25)


def test_the_largest_group_that_fits_all_matrices_is_chosen():
    fits = {name: Fit(groups, 32) for name, groups in {
        "a": ("row", 1024, 512, 256, 128, 64, 32), "b": (256, 128, 64, 32), "c": ("row", 128, 64, 32)
    }.items()}  # fmt: skip
    assert common_group(fits) == 128
    assert common_group({"a": fits["a"], "c": fits["c"]}) == "row"
    assert common_group({"a": fits["a"], "b": fits["b"]}) == 256


def test_sizes_without_one_in_common_are_refused():
    with pytest.raises(NotTernary, match="no one size"):
        common_group({"a": Fit((64,), 32), "b": Fit((32,), 32)})


def test_a_refusal_names_the_worst_matrix_and_how_far_it_is():
    near = ternarise(random_matrix(), 32)
    near[0, 0] += 0.001
    fits = {"near": measure(near), "plain": measure(random_matrix()), "good": measure(ternarise(near, 32))}
    with pytest.raises(NotTernary) as caught:
        common_group(fits)
    message = str(caught.value)
    assert "2 of 3 matrices" in message
    assert "The worst is plain: 100.0% of its groups of 32 weights" in message
    assert f"{fits['plain'].deviation:.1%}" in message
    assert 0.3 < fits["plain"].deviation <= 0.5


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_is_not_ternary(value):
    weight = ternarise(random_matrix(), "row")
    weight[2, 7] = value
    assert measure(weight).groups == ()
    weight[:] = value
    assert measure(weight).groups == ()
