"""Calibrated rounding brings outputs nearer than rounding to the nearest, on inputs that are correlated."""

import pytest
import torch

from minicpm.errors import BadParameter, NotFinite
from minicpm.quant import gptq as gptq_module
from minicpm.quant.awq import clipped, search_scale
from minicpm.quant.gptq import gptq
from minicpm.quant.grid import Grid, levels_of
from minicpm.quant.hessian import Moments, output_errors, relative_error
from minicpm.quant.methods import METHODS, Gptq, Nearest, find_method

GRIDS = [
    Grid(bits, group, symmetric) for bits in (4, 3, 2) for group in (32, 128) for symmetric in (True, False)
]


def correlated(rows=600, width=128, seed=0, outliers=0.0):
    """Inputs [rows, width] that share a few directions, some of them large."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width // 4, width, generator=g)
    x = torch.randn(rows, width // 4, generator=g) @ mixing + 0.3 * torch.randn(rows, width, generator=g)
    x[:, ::100] *= 1 + outliers
    return x


def matrix(rows=40, width=128, seed=1):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) / width**0.5


def moments_of(x):
    moments = Moments.of_width(x.shape[1])
    for part in x.split(97):
        moments.add(part)
    return moments


def slow_gptq(weight, levels, second, damping):
    """Column by column with the inverse updated by elimination (arXiv 2210.17323, equations 2 and 3)."""
    second = second.double()
    dead = second.diagonal() == 0
    inverse = (second + torch.diag(torch.where(dead, 1.0, damping * second.diagonal().mean()))).inverse()
    left, codes = weight.double().clone(), torch.empty_like(weight)
    for i in second.diagonal().argsort(descending=True, stable=True).tolist():
        codes[:, i], value = levels.column(left[:, i].float(), i)
        left -= torch.outer((left[:, i] - value) / inverse[i, i], inverse[i])
        inverse -= torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes


def test_moments_are_means_over_all_rows():
    x = correlated()
    moments = moments_of(x)
    assert moments.rows == 600
    torch.testing.assert_close(moments.second, x.t() @ x / 600, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments.size, x.abs().mean(dim=0))
    blocks = moments.blocks(32)
    torch.testing.assert_close(blocks[2], moments.second[64:96, 64:96])


def test_output_errors_are_those_of_the_rows_themselves():
    x, off = correlated(), matrix(seed=4)
    expected = (x @ off.t()).square().mean(dim=0)
    torch.testing.assert_close(output_errors(off, moments_of(x)), expected, rtol=1e-3, atol=1e-4)


def test_gptq_is_the_slow_elimination(monkeypatch):
    monkeypatch.setattr(gptq_module, "BLOCK", 48)
    weight, moments = matrix(), moments_of(correlated())
    levels = levels_of(weight, Grid(4, 32), torch.float32)
    fast = gptq(weight, levels, moments)
    slow = slow_gptq(weight, levels, moments.second, 0.01)
    # float32 may break a tie the other way once, and what follows in that row differs then.
    same_rows = (fast == slow).all(dim=1).float().mean()
    assert same_rows > 0.9
    errors = [output_errors(levels.values(c) - weight, moments).sum() for c in (fast, slow)]
    assert errors[0] == pytest.approx(errors[1].item(), rel=0.03)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gptq_loses_less_than_the_nearest_codes(grid):
    weight, moments = matrix(), moments_of(correlated())
    losses = {}
    for rounding in (Nearest(), Gptq()):
        codes, levels = rounding.round(weight, grid, moments, torch.bfloat16)
        losses[type(rounding)] = relative_error(weight, levels.values(codes), moments)
    assert losses[Gptq] < 0.8 * losses[Nearest]


def test_no_output_is_worse_off_for_gptq():
    weight, moments = matrix(rows=300), moments_of(correlated(rows=40))
    grid = Grid(2, 128)
    near, found = (r.round(weight, grid, moments, torch.bfloat16) for r in (Nearest(), Gptq()))
    errors = [output_errors(levels.values(codes) - weight, moments) for codes, levels in (near, found)]
    assert (errors[1] <= errors[0]).all()


@pytest.mark.parametrize("bits", [4, 3])
def test_outliers_of_first_positions_cost_the_others_when_they_are_seen(bits):
    """First positions hold inputs twenty times as large, in directions that nothing else needs."""
    x, judged = correlated(rows=4000).split(2000)
    held_out = moments_of(judged)
    first = torch.arange(2000) % 50 < 4
    x[first] = 20 * torch.randn(int(first.sum()), 128, generator=torch.Generator().manual_seed(7))
    weight, grid = matrix(), Grid(bits, 128)
    losses = []
    for rows in (x, x[~first]):
        codes, levels = Gptq().round(weight, grid, moments_of(rows), torch.bfloat16)
        losses.append(relative_error(weight, levels.values(codes), held_out))
    assert losses[1] < 0.8 * losses[0]


def test_inputs_that_were_never_seen_are_rounded_to_the_nearest():
    x = correlated()
    x[:, 5] = 0
    weight, moments = matrix(), moments_of(x)
    levels = levels_of(weight, Grid(3, 32), torch.float32)
    assert torch.equal(gptq(weight, levels, moments)[:, 5], levels.codes(weight)[:, 5])


def test_damping_grows_until_there_is_a_factor():
    x = torch.ones(4, 128) * 1e3  # one direction only
    weight, moments = matrix(), moments_of(x)
    levels = levels_of(weight, Grid(4, 32), torch.float32)
    assert gptq(weight, levels, moments, damping=1e-12).isfinite().all()


def test_inputs_that_are_not_finite_are_refused():
    moments = moments_of(correlated())
    moments.second[3, 3] = torch.nan
    with pytest.raises(NotFinite, match="rtn"):
        Gptq().round(matrix(), Grid(4, 32), moments, torch.bfloat16)


@pytest.mark.parametrize("bits", [4, 3])
def test_scaling_serves_inputs_that_are_large(bits):
    weight, moments = matrix(), moments_of(correlated(outliers=20.0))
    grid = Grid(bits, 128)
    scale = search_scale([weight], [grid], moments, size=moments.size, dtype=torch.bfloat16)

    def loss(scale):
        levels = levels_of(weight * scale, grid, torch.bfloat16)
        return relative_error(weight, levels.values(levels.codes(weight * scale)) / scale, moments)

    assert loss(scale) < 0.93 * loss(torch.ones(128))


def test_inputs_of_one_size_are_not_scaled_apart():
    moments = Moments(torch.eye(128), torch.ones(128), 10)
    scale = search_scale([matrix()], [Grid(4, 32)], moments, size=moments.size, dtype=torch.bfloat16)
    assert torch.equal(scale, torch.ones(128))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_clipping_makes_no_output_worse(grid):
    weight, moments = matrix(), moments_of(correlated())
    levels = levels_of(weight, grid, torch.bfloat16)
    tried = clipped(weight, levels, moments)
    errors = [output_errors(found.values(found.codes(weight)) - weight, moments) for found in (levels, tried)]
    assert (errors[1] <= errors[0]).all()


def test_every_method_copes_without_moments():
    weight = matrix()
    for method in METHODS.values():
        if method.name != "ternary":
            codes, levels = method.rounding.round(weight, Grid(4, 32), None, torch.bfloat16)
            assert torch.equal(codes, levels.codes(weight))


def test_what_the_methods_look_at():
    assert not METHODS["rtn"].needs_inputs
    assert METHODS["gptq"].rounding.skipped == 0
    assert METHODS["pgptq"].rounding.skipped == 4
    assert METHODS["awq"].scaling is METHODS["awq+pgptq"].scaling or METHODS["awq"].scaling is not None
    with pytest.raises(BadParameter, match="Did you mean 'gptq'"):
        find_method("gtpq")
