"""Turns a checkpoint into a model: everything is checked first, then the weights stream in."""

from dataclasses import replace
from pathlib import Path

import torch

from minicpm.checkpoint.available import Limit
from minicpm.checkpoint.building import allocate, blank
from minicpm.checkpoint.files import shown
from minicpm.checkpoint.filling import fill
from minicpm.checkpoint.folder import Checkpoint, open_checkpoint
from minicpm.checkpoint.kinds import M, require_kind
from minicpm.checkpoint.matching import check_tensors
from minicpm.checkpoint.naming import with_prefix
from minicpm.checkpoint.plan import MemoryPlan, plan_memory, require_fit
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.resolving import resolve
from minicpm.checkpoint.ternary import fill_packed, measure_packing, packed_plan
from minicpm.checkpoint.tied_head import check_tied_head
from minicpm.checkpoint.tokenizer_fit import check_tokenizer
from minicpm.config import BYTES, ModelConfig, dtype_name, extend, parameter_count
from minicpm.config.dtypes import check_holding
from minicpm.config.sparse import with_sparse
from minicpm.errors import BadConfig, BadParameter, CapacityError
from minicpm.models import registry
from minicpm.models.decoder import Decoder
from minicpm.models.trunk import Trunk
from minicpm.ops.backend import choose_backend

_STORED_AS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def load(
    checkpoint: Checkpoint,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    context: int | None = None,
    sparse: str = "auto",
    weights: str = "plain",
    prepare: bool = True,
    progress: Progress | None = None,
) -> Decoder:
    """The decoder of a checkpoint; as `load_as`, which raises WrongKind for a model that writes no text."""
    return load_as(
        Decoder,
        checkpoint,
        dtype=dtype,
        device=device,
        backend=backend,
        context=context,
        sparse=sparse,
        weights=weights,
        prepare=prepare,
        progress=progress,
    )


def load_as(
    kind: type[M],
    checkpoint: Checkpoint,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    context: int | None = None,
    sparse: str = "auto",
    weights: str = "plain",
    prepare: bool = True,
    progress: Progress | None = None,
) -> M:
    """The model of a checkpoint, which must be of this kind, on `device`.

    Its weights are cast to `dtype` ("auto": as config.json says). Kind, config, dtype, tokenizer, tensor
    names and memory are checked before any tensor is read; each problem has its own error (WrongKind,
    BadConfig, UnknownModel, BadParameter, TokenizerMismatch, WeightMismatch, CapacityError), and NotFinite is
    raised while reading. `sparse` is as for `read_config`. With `prepare=False` projections stay separate,
    for training. With `weights="packed"` the projections of a ternary model (BitCPM4) are held in about two
    bits per weight, which changes no logit; those of any other are refused with NotTernary.
    """
    check_holding(weights)
    config = read_config(checkpoint, context=context, sparse=sparse)
    model = require_kind(blank(config), kind, checkpoint)
    name = weight_dtype(config, dtype)
    target = _device(device)
    choose_backend(backend)
    check_tokenizer(checkpoint.path, config, checkpoint.generation)
    needed = {n: p.shape for n, p in model.named_parameters()}
    checkpoint = with_prefix(checkpoint, needed)
    check_tensors(needed, checkpoint, unused=model.unused)
    check_tied_head(checkpoint, config, model.unused)
    plan = plan_load(checkpoint, config, name, tokens=context or 0, device=target)
    if weights == "packed":
        packing = measure_packing(model, checkpoint, getattr(torch, name))
        require_fit(packed_plan(plan, packing, name))
        fill_packed(model, checkpoint, packing.group, dtype=getattr(torch, name), device=target)
    else:
        require_fit(plan)
    _allocate(model, name, target)
    fill(model, checkpoint, progress=progress)
    if prepare:
        model.prepare(backend)
    return model.eval() if prepare else model


def load_decoder(
    path_or_name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    context: int | None = None,
    sparse: str = "auto",
    weights: str = "plain",
    prepare: bool = True,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Decoder:
    """The decoder of a folder, of "nano", or of a hub name, which is pulled when it is not in the cache."""
    folder = resolve(str(path_or_name), revision=revision, offline=offline, progress=progress)
    return load(
        open_checkpoint(folder),
        dtype=dtype,
        device=device,
        backend=backend,
        context=context,
        sparse=sparse,
        weights=weights,
        prepare=prepare,
        progress=progress,
    )


def read_config(checkpoint: Checkpoint, *, context: int | None = None, sparse: str = "auto") -> ModelConfig:
    """The ModelConfig of a checkpoint, for sequences of up to `context` tokens when that is given.

    `sparse` is "on", "off" or "auto", which leaves attention as config.json has it.
    """
    config = with_sparse(registry.parse(checkpoint.raw_config), sparse)
    return config if context is None else extend(config, context)


def weight_dtype(config: ModelConfig, wanted: str | torch.dtype) -> str:
    """The full dtype name for `wanted`; raises BadParameter, listing the known names, for any other."""
    name = str(wanted)
    if name != "auto":
        return dtype_name(name)
    try:
        return dtype_name(config.dtype)
    except BadParameter as error:
        raise BadConfig(
            f"config.json gives the weights the dtype {shown(repr(config.dtype))}, which is none of "
            f"{', '.join(BYTES)}. Correct torch_dtype, or ask for a dtype yourself."
        ) from error


def _allocate(model: Trunk, dtype: str, device: torch.device) -> None:
    try:
        allocate(model, getattr(torch, dtype), device)
    except (RuntimeError, MemoryError) as error:
        raise CapacityError(
            f"The memory for {parameter_count(model.config):,} weights as {dtype} was refused "
            f"({shown(str(error))}). Use a smaller model or a 16-bit dtype, or end other programs."
        ) from error


def plan_load(
    checkpoint: Checkpoint,
    config: ModelConfig,
    dtype: str,
    *,
    tokens: int,
    device: torch.device | None = None,
) -> MemoryPlan:
    """The memory plan of loading this checkpoint, then holding one sequence of `tokens` tokens."""
    plan = plan_memory(config, dtype, tokens, limit=_gpu_limit(device))
    casts = [info.nbytes for info in checkpoint.tensors.values() if info.dtype != _STORED_AS[dtype]]
    return replace(plan, scratch_bytes=max([plan.scratch_bytes, *casts]))


def _gpu_limit(device: torch.device | None) -> Limit | None:
    if device is None or device.type != "cuda":
        return None
    return Limit("the GPU's free memory", torch.cuda.mem_get_info(device)[0])


def _device(device: str | torch.device) -> torch.device:
    """The device by that name; BadParameter for one that is not known or not there."""
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise BadParameter(
            f"The device {shown(str(device))!r} is not known. Use cpu, cuda, cuda:N or mps."
        ) from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if target.type not in counts:
        raise BadParameter(
            f"The device {shown(str(device))!r} is not supported. Use cpu, cuda, cuda:N or mps."
        )
    if (target.index or 0) >= counts[target.type]:
        raise BadParameter(
            f"The device {shown(str(device))!r} was asked for, but this torch sees {counts[target.type]} "
            f"{target.type} devices. Use cpu, or a torch that was built for the hardware."
        )
    return target
