"""Rounds the matrices of one block, each after those that its inputs come through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor

from minicpm.checkpoint.building import allocate
from minicpm.convert.quantizing.events import Rounding
from minicpm.convert.quantizing.flow import Flow
from minicpm.convert.quantizing.folding import scale_inputs
from minicpm.convert.quantizing.job import Job
from minicpm.convert.quantizing.parts import Source
from minicpm.convert.quantizing.rounded import RoundedLayer
from minicpm.convert.quantizing.watching import Stage, moments, stages
from minicpm.layers.block import Block
from minicpm.ops.quant_tensor import QuantTensor, decode
from minicpm.quant.grid import Grid
from minicpm.quant.hessian import Moments, relative_error
from minicpm.quant.methods import Method


@torch.no_grad()
def read_block(source: Source, index: int, device: torch.device) -> Block:
    """The block as the checkpoint has it, in float32."""
    block = deepcopy(source.model.model.layers[index])
    allocate(block, torch.float32, device)
    for name, parameter in block.named_parameters():
        parameter.data.copy_(source.read(f"{source.layer(index)}.{name}"))
    return block.requires_grad_(False).eval()


@torch.no_grad()
def round_layer(
    job: Job, index: int, block: Block, grids: Mapping[str, Grid], flow: Flow | None
) -> RoundedLayer:
    """Round a float32 block in place to what its packed matrices decode to; `grids` by names in the block.

    Without a flow nothing is known of inputs.
    """
    prefix, method = f"{job.source.layer(index)}.", job.method
    result = RoundedLayer()
    if flow is not None and method.scaling is not None:
        seen = moments(block, list(grids), flow.runs(), skipped=method.rounding.skipped)
        scale_inputs(block, method.scaling, grids, seen, dtype=job.source.dtype)
    for stage in _stages(block, grids, flow):
        seen = {}
        if flow is not None:
            seen = moments(block, stage, flow.runs(), skipped=method.rounding.skipped)
        for name in stage:
            job.watch(Rounding(index, job.layers, prefix + name))
            weight = block.get_submodule(name).weight.data
            packed, error = _round(weight, grids[name], method, seen.get(name), job.source.dtype)
            result.packed[prefix + name], result.errors[prefix + name] = packed, error
            weight.copy_(decode(packed))
    result.plain |= _others(job.source, prefix, block, grids)
    return result


def _stages(block: Block, grids: Mapping[str, Grid], flow: Flow | None) -> list[Stage]:
    if not grids:
        return []
    return [tuple(grids)] if flow is None else stages(block, list(grids), next(flow.runs()))


def _round(
    weight: Tensor, grid: Grid, method: Method, seen: Moments | None, dtype: torch.dtype
) -> tuple[QuantTensor, float]:
    codes, levels = method.rounding.round(weight, grid, seen, dtype)
    error = relative_error(weight, levels.values(codes), seen)
    return levels.tensor(codes, dtype).to(torch.device("cpu")), error


def _others(
    source: Source, prefix: str, block: Block, grids: Mapping[str, Grid]
) -> Iterator[tuple[str, Tensor]]:
    """What is not rounded, in the dtype it is stored in."""
    for name, parameter in block.named_parameters():
        if name.removesuffix(".weight") not in grids:
            yield prefix + name, parameter.data.to("cpu", source.stored_dtype(prefix + name), copy=True)


@torch.no_grad()
def restore(source: Source, index: int, block: Block, layer: RoundedLayer) -> None:
    """Give a float32 block the weights of a layer that was rounded before."""
    prefix = f"{source.layer(index)}."
    for name, parameter in block.named_parameters():
        packed = layer.packed.get(prefix + name.removesuffix(".weight"))
        parameter.data.copy_(layer.plain[prefix + name] if packed is None else decode(packed))
