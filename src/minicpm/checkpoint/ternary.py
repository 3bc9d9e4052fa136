"""Recognises checkpoints of ternary weights and fills a model with them packed, one tensor at a time."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from minicpm.checkpoint.building import blank
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.matching import check_tensors
from minicpm.checkpoint.naming import with_prefix
from minicpm.checkpoint.plan import MemoryPlan
from minicpm.checkpoint.reading import TORCH_DTYPES
from minicpm.config.holding import absorbed_bytes
from minicpm.errors import NotTernary, WeightMismatch
from minicpm.models.registry import parse
from minicpm.models.trunk import Trunk
from minicpm.ops.native.memory import give_back
from minicpm.quant.packing import Packing, hold_packed, packing_of, projections
from minicpm.quant.ternary import Fit, Group, measure, pack

_WORKING_BYTES = 12
"""Per weight of the largest matrix, while it is packed: itself, magnitudes, signs, and it decoded."""


def packing_of_checkpoint(checkpoint: Checkpoint) -> Packing | None:
    """How the projections of a checkpoint pack, in the dtype they are stored in; None when they do not.

    Tensors are read one after the other, up to the first that is not ternary. A checkpoint whose tensors are
    not those of its config does not pack, and neither does one of codes.
    """
    if checkpoint.packed:
        return None
    model = blank(parse(checkpoint.raw_config))
    needed = {name: weight.shape for name, weight in model.named_parameters()}
    checkpoint = with_prefix(checkpoint, needed)
    try:
        check_tensors(needed, checkpoint, unused=model.unused)
    except WeightMismatch:
        return None
    fits = {}
    for name, fit in _measured(model, checkpoint):
        if not fit.groups:
            return None
        fits[name] = fit
    stored = {checkpoint.tensors[f"{name}.weight"].dtype for name in fits}
    try:
        return packing_of(_shapes(model), fits, TORCH_DTYPES[min(stored)])
    except NotTernary:  # of groups without a common size
        return None


def measure_packing(model: Trunk, checkpoint: Checkpoint, dtype: torch.dtype) -> Packing:
    """How the projections of a model on the meta device pack as `dtype`; NotTernary when one does not."""
    return packing_of(_shapes(model), dict(_measured(model, checkpoint)), dtype)


def fill_packed(
    model: Trunk, checkpoint: Checkpoint, group: Group, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Let packed projections, cast to `dtype`, take the place of those of a model on the meta device."""
    for name in projections(model):
        weight = checkpoint.read(f"{name}.weight").to(dtype)
        hold_packed(model, name, pack(weight, group).to(device))
        give_back()  # what packing took, or it would lie in pieces between what is kept


def packed_plan(plan: MemoryPlan, model: Trunk, packing: Packing) -> MemoryPlan:
    """The plan when projections are packed instead of held as its dtype."""
    saved = packing.nbytes_before - packing.nbytes - absorbed_bytes(model.config, plan.dtype)
    largest = max(shape.numel() for shape in _shapes(model).values())
    scratch = max(plan.scratch_bytes, _WORKING_BYTES * largest)
    return replace(plan, weight_bytes=plan.weight_bytes - saved, scratch_bytes=scratch)


def _shapes(model: Trunk) -> dict[str, torch.Size]:
    return {name: part.weight.shape for name, part in projections(model).items()}


def _measured(model: Trunk, checkpoint: Checkpoint) -> Iterator[tuple[str, Fit]]:
    for name in projections(model):
        yield name, measure(checkpoint.read(f"{name}.weight"))
