"""On nano, leaving out first positions serves all others, in the layers whose inputs have outliers there."""

import pytest
import torch

from minicpm.convert.quantizing.flow import Flow
from minicpm.convert.quantizing.layer import read_block
from minicpm.convert.quantizing.parts import source_of
from minicpm.convert.quantizing.watching import moments
from minicpm.quant.grid import Grid
from minicpm.quant.hessian import relative_error
from minicpm.quant.methods import find_method

CPU, NAME = torch.device("cpu"), "mlp.down_proj"
# Enough that what 512 inputs have in common is known; with few tokens more damping, which outliers bring,
# makes up for what is not.
CALIBRATION, HELD_OUT = (7_103, 40_000), (7_104, 15_000)


@pytest.fixture(scope="module")
def inputs(nano, conversations):
    """Of the first two down projections: the matrix, moments by skipped positions, and those of a judge."""
    source = source_of(nano)
    calibration, held_out = (Flow(source, conversations(*which), CPU) for which in (CALIBRATION, HELD_OUT))
    found = []
    for index in range(2):
        block = read_block(source, index, CPU)
        seen = {n: moments(block, [NAME], calibration.runs(), skipped=n)[NAME] for n in (0, 4)}
        judge = moments(block, [NAME], held_out.runs(), skipped=4)[NAME]
        found.append((block.mlp.down_proj.weight.data, seen, judge))
        calibration.advance(block)
        held_out.advance(block)
    return found


def test_the_first_position_is_an_outlier(inputs):
    for _, seen, _ in inputs:
        assert seen[0].second.diagonal().sum() > 1.02 * seen[4].second.diagonal().sum()


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("bits", [4, 3])
def test_pgptq_loses_no_more_than_gptq_in_other_positions(bits, layer, inputs):
    weight, seen, judge = inputs[layer]
    losses = {}
    for method in ("gptq", "pgptq"):
        rounding = find_method(method).rounding
        codes, levels = rounding.round(weight, Grid(bits, 64), seen[rounding.skipped], torch.bfloat16)
        losses[method] = relative_error(weight, levels.values(codes), judge)
    assert losses["pgptq"] <= losses["gptq"], losses
