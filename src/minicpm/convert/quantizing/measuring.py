"""Measures what every matrix of the layers costs and loses by bits, for a budget to choose by."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minicpm.convert.quantizing.budget import Measured, choose, measure
from minicpm.convert.quantizing.events import Measuring
from minicpm.convert.quantizing.flow import Flow
from minicpm.convert.quantizing.job import Job
from minicpm.convert.quantizing.layer import read_block
from minicpm.convert.quantizing.recipe import BITS, Recipe, named_bits
from minicpm.convert.quantizing.watching import moments
from minicpm.layers.block import Block
from minicpm.quant.grid import Grid

Choices = Mapping[int, Grid]
"""Grids for one matrix by bits."""


def within_budget(job: Job, recipe: Recipe, grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """Grids of the layers' matrices with the bits that the budget chooses; those a pattern names keep theirs.

    Losses are those that the unrounded model sees in its outputs, of rounding to the nearest: the order of
    matrices hardly depends on the method.
    """
    assert recipe.budget is not None
    fixed = named_bits(recipe, job.source.matrices())
    measured: dict[str, Measured] = {}
    for index, facts in enumerate(_facts(job, grids, fixed)):
        prefix = job.source.layer(index)
        measured |= {f"{prefix}.{name}": _measured(told) for name, told in facts.items()}
    return {name: replace(grids[name], bits=bits) for name, bits in choose(measured, recipe.budget).items()}


def _facts(job: Job, grids: Mapping[str, Grid], fixed: Mapping[str, int]) -> list[dict[str, Any]]:
    """What is known of each layer, measured where it is not yet."""
    names = [f"measured-{index:05}" for index in range(job.layers)]
    left = [index for index, name in enumerate(names) if job.work.facts(name) is None]
    flow = job.flow() if left else None
    for index in range(left[-1] + 1 if left else 0):
        assert flow is not None, "a budget has a calibration text"
        block = read_block(job.source, index, job.device)
        if index in left:
            choices = _choices(job, index, fixed, grids)
            job.work.keep_facts(names[index], _of_block(job, block, flow, choices))
            job.watch(Measuring(index, job.layers))
        flow.advance(block)
    return [job.work.facts(name) or {} for name in names]


def _choices(job: Job, index: int, fixed: Mapping[str, int], grids: Mapping[str, Grid]) -> dict[str, Choices]:
    """The grids to try for every matrix of a layer, by bits."""
    prefix = f"{job.source.layer(index)}."
    return {
        name: {bits: replace(grid, bits=bits) for bits in ((grid.bits,) if prefix + name in fixed else BITS)}
        for name, grid in job.inside(index, grids).items()
    }


def _of_block(job: Job, block: Block, flow: Flow, choices: Mapping[str, Choices]) -> dict[str, Any]:
    seen = moments(block, list(choices), flow.runs(), skipped=job.method.rounding.skipped)
    facts = {}
    for name, grids in choices.items():
        weight = block.get_submodule(name).weight.data
        found = measure(weight, grids, seen.get(name), dtype=job.source.dtype)
        facts[name] = {
            "weights": found.weights,
            "nbytes": list(found.nbytes.items()),
            "loss": list(found.loss.items()),
        }
    return facts


def _measured(facts: dict[str, Any]) -> Measured:
    return Measured(facts["weights"], dict(facts["nbytes"]), dict(facts["loss"]))
