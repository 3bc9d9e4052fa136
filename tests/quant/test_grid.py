"""Grids hold what they say, and levels agree with what loading rounds to."""

import pytest
import torch

from minicpm.ops.quant_tensor import decode
from minicpm.quant.grid import Grid, levels_of
from minicpm.quant.rounding import round_to

GRIDS = [
    Grid(bits, group, symmetric)
    for bits in (8, 4, 3, 2)
    for group in (32, 64, 128, 256)
    for symmetric in (True, False)
]


def normal(rows=12, columns=256, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 16


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_matrix_in_codes_stands_for_its_levels_and_takes_the_bytes_foretold(grid):
    weight = normal()
    levels = levels_of(weight, grid, torch.bfloat16)
    codes = levels.codes(weight)
    packed = levels.tensor(codes, torch.float32)
    assert packed.nbytes == grid.nbytes(*weight.shape, 2)
    assert packed.dtype == torch.float32
    assert torch.equal(decode(packed), levels.values(codes))
    assert codes.amin() >= 0
    assert codes.amax() <= grid.top


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_columns_one_by_one_are_the_matrix_at_once(grid):
    weight = normal()
    levels = levels_of(weight, grid, torch.bfloat16)
    by_column = [levels.column(weight[:, i], i) for i in range(256)]
    assert torch.equal(torch.stack([codes for codes, _ in by_column], dim=1), levels.codes(weight))
    values = torch.stack([values for _, values in by_column], dim=1)
    assert torch.equal(values, levels.values(levels.codes(weight)))


@pytest.mark.parametrize(("bits", "group"), [(8, 128), (4, 64), (4, 32), (3, 64), (2, 256), (3, 32)])
def test_symmetric_levels_are_those_that_loading_rounds_to(bits, group):
    weight = normal().bfloat16()
    rounded = round_to(weight, bits, group)
    levels = levels_of(weight.float(), Grid(bits, group), torch.bfloat16)
    assert torch.equal(levels.tensor(levels.codes(weight.float()), torch.bfloat16).codes, rounded.codes)
    assert torch.equal(levels.scales, rounded.scales)


@pytest.mark.parametrize("bits", [3, 2])
def test_scales_are_searched_at_few_bits(bits):
    weight = normal(rows=200).bfloat16()
    grouped = weight.float().unflatten(1, (-1, 64))
    half = 2 ** (bits - 1)
    scale = grouped.abs().amax(-1, keepdim=True) / half
    plain = ((grouped / scale).round().clamp(-half, half - 1) * scale - grouped).norm()
    searched = (decode(round_to(weight, bits, 64)).float().unflatten(1, (-1, 64)) - grouped).norm()
    assert searched < 0.95 * plain


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_zeros_serve_groups_that_lie_to_one_side(bits):
    weight = normal().abs() + 0.05

    def loss(symmetric):
        levels = levels_of(weight, Grid(bits, 64, symmetric), torch.bfloat16)
        return (levels.values(levels.codes(weight)) - weight).norm()

    assert loss(False) < 0.8 * loss(True)


@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_of_zeros_stay_zeros(symmetric):
    weight = normal()
    weight[:, 64:128] = 0
    levels = levels_of(weight, Grid(3, 64, symmetric), torch.bfloat16)
    values = levels.values(levels.codes(weight))
    assert (values[:, 64:128] == 0).all()
    assert values.isfinite().all()
