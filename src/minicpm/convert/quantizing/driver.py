"""Quantizes a model: plans, measures for a budget, rounds layer by layer, and writes the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from minicpm.checkpoint.atomic import check_target
from minicpm.checkpoint.disk import require_room, writing
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.loading import find_device
from minicpm.checkpoint.ternary import measure_packing
from minicpm.convert.quantizing.events import LayerDone, Started
from minicpm.convert.quantizing.flow import Flow
from minicpm.convert.quantizing.job import Job, Watch
from minicpm.convert.quantizing.layer import read_block, restore, round_layer
from minicpm.convert.quantizing.measuring import within_budget
from minicpm.convert.quantizing.memory import require_memory
from minicpm.convert.quantizing.parts import Source, source_of
from minicpm.convert.quantizing.recipe import ROW, TERNARY, Recipe, grids_of
from minicpm.convert.quantizing.rest import round_rest
from minicpm.convert.quantizing.result import publish
from minicpm.convert.quantizing.work import fingerprint, opened
from minicpm.convert.texts import BUILT_IN, LENGTH, Sequences, read_sequences
from minicpm.quant.grid import Grid
from minicpm.quant.methods import Method, find_method
from minicpm.text.tokenizer import Tokenizer

TOKENS = 65_536
"""Of the calibration text, at most."""
_REST = "rest"


def quantize(
    checkpoint: Checkpoint,
    target: str | Path,
    recipe: Recipe,
    *,
    calibration: str | Path | Sequences | None = None,
    tokens: int = TOKENS,
    device: str = "cpu",
    overwrite: bool = False,
    watch: Watch = lambda event: None,
) -> Path:
    """Write a checkpoint that writes text as a folder of packed matrices; returns the folder.

    `calibration` is a file, "builtin", which is taken where the method needs a text and none is given, or
    sequences of ids, as of rendered conversations; `tokens` bounds what is read of a file. In memory are one
    layer in float32, the moments of what its matrices are given, and the hidden states of the calibration
    text: 4 bytes for each token and number of the residual stream. Finished layers are kept beside the
    target, so that the same call continues after any end; until the last moment `target` is what it was.

    Raises BadParameter for a recipe that does not fit the model, BadInput for a text or target that cannot
    be used, NotTernary, CapacityError, DiskFull, and what loading the source raises.
    """
    target, how, there = Path(target).absolute(), find_method(recipe.method), find_device(device)
    check_target(target, overwrite=overwrite)
    source = source_of(checkpoint)
    grids = _grids(recipe, source)
    sequences = _sequences(source, how, recipe, calibration, tokens)
    require_memory(source, how, grids, 0 if sequences is None else sequences.tokens)
    needed = sum(info.nbytes for info in checkpoint.tensors.values())
    require_room(target.parent, needed)
    with (
        writing(target.parent, needed=needed),
        opened(target, fingerprint(source, recipe, sequences)) as work,
    ):
        job = Job(source, how, sequences, there, work, watch)
        parts = _layer_parts(job.layers)
        finished = sum(work.note(part) is not None for part in parts)
        watch(Started(job.layers, finished, work.folder, work.anew))
        if recipe.budget is not None:
            grids |= within_budget(job, recipe, grids)
        _round_layers(job, grids)
        if work.note(_REST) is None:
            work.keep(_REST, round_rest(source, grids))
        publish(work, [_REST, *parts], source, target, overwrite=overwrite)
    return target


def _grids(recipe: Recipe, source: Source) -> dict[str, Grid]:
    matrices = source.matrices()
    if recipe.method != TERNARY:
        return grids_of(recipe, matrices)
    packing = measure_packing(source.model, source.checkpoint, source.dtype)
    # Every group divides a row; those of ternary weights are those they were trained with.
    planned = grids_of(replace(recipe, method="rtn", bits=2, group=ROW), matrices)
    if packing.group == ROW:
        return planned
    return {
        name: grid if matrices[name].head else replace(grid, group=packing.group)
        for name, grid in planned.items()
    }


def _sequences(
    source: Source, how: Method, recipe: Recipe, calibration: str | Path | Sequences | None, tokens: int
) -> Sequences | None:
    if isinstance(calibration, Sequences):
        return calibration
    if calibration is None and not how.needs_inputs and recipe.budget is None:
        return None
    tokenizer = Tokenizer.from_folder(source.checkpoint.path)
    length = min(LENGTH, source.config.context)
    return read_sequences(
        calibration or BUILT_IN, tokenizer, purpose="calibration", length=length, tokens=tokens
    )


def _layer_parts(layers: int) -> list[str]:
    return [f"layer-{index:05}" for index in range(layers)]


def _round_layers(job: Job, grids: Mapping[str, Grid]) -> None:
    """Round what is not finished; what is, only carries the calibration text on to it."""
    parts = _layer_parts(job.layers)
    left = [index for index, part in enumerate(parts) if job.work.note(part) is None]
    flow = job.flow() if left else None
    for index in range(left[-1] + 1 if left else 0):
        if index in left:
            _round_one(job, index, parts[index], grids, flow)
        elif flow is not None:
            block = read_block(job.source, index, job.device)
            restore(job.source, index, block, job.work.read(parts[index], job.source.dtype))
            flow.advance(block)


def _round_one(job: Job, index: int, part: str, grids: Mapping[str, Grid], flow: Flow | None) -> None:
    block = read_block(job.source, index, job.device)
    layer = round_layer(job, index, block, job.inside(index, grids), flow)
    if flow is not None and index + 1 < job.layers:
        flow.advance(block)
    job.work.keep(part, layer)
    bits = {name: packed.scheme.bits for name, packed in layer.packed.items()}
    job.watch(LayerDone(index, job.layers, bits, layer.errors))
