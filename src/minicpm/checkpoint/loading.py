"""Turns a checkpoint into a model: everything is checked first, then the weights stream in."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from minicpm.checkpoint.available import Limit
from minicpm.checkpoint.building import allocate, blank
from minicpm.checkpoint.files import shown
from minicpm.checkpoint.filling import fill
from minicpm.checkpoint.folder import Checkpoint, open_checkpoint
from minicpm.checkpoint.held_in_codes import check_held, fill_from_codes
from minicpm.checkpoint.kinds import M, require_kind
from minicpm.checkpoint.matching import check_tensors
from minicpm.checkpoint.naming import with_prefix
from minicpm.checkpoint.packed_cache import kept_plan, packed_cache
from minicpm.checkpoint.plan import MemoryPlan, codes_plan, fusing_bytes, plan_memory, require_fit
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.resolving import resolve
from minicpm.checkpoint.rounded import fill_rounded, rounded_parts, rounded_plan
from minicpm.checkpoint.ternary import fill_packed, measure_packing, packed_plan
from minicpm.checkpoint.tied_head import check_tied_head
from minicpm.checkpoint.tokenizer_fit import check_tokenizer
from minicpm.config import BYTES, ModelConfig, dtype_name, extend, parameter_count
from minicpm.config.dtypes import BITS, ROUNDED_HEADS, check_holding, held_dtype
from minicpm.config.holding import head_saving
from minicpm.config.kv import AUTO
from minicpm.config.sparse import with_sparse
from minicpm.errors import BadConfig, BadParameter, CapacityError
from minicpm.models import registry
from minicpm.models.decoder import Decoder
from minicpm.models.kv import require_kv
from minicpm.models.trunk import Trunk
from minicpm.ops.backend import check_backend, choose_backend

_STORED_AS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def load(
    checkpoint: Checkpoint,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    threads: int | None = None,
    context: int | None = None,
    sparse: str = "auto",
    weights: str = "plain",
    kv: str = AUTO,
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
        threads=threads,
        context=context,
        sparse=sparse,
        weights=weights,
        kv=kv,
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
    threads: int | None = None,
    context: int | None = None,
    sparse: str = "auto",
    weights: str = "plain",
    kv: str = AUTO,
    prepare: bool = True,
    progress: Progress | None = None,
) -> M:
    """The model of a checkpoint, which must be of this kind, on `device`.

    Its weights are cast to `dtype` ("auto": as config.json says). Kind, config, dtype, tokenizer, tensor
    names and memory are checked before any tensor is read; each problem has its own error (WrongKind,
    BadConfig, UnknownModel, BadParameter, TokenizerMismatch, WeightMismatch, CapacityError), and NotFinite is
    raised while reading. `sparse` is as for `read_config`. With `prepare=False` projections stay separate,
    for training. With `weights="packed"` the projections of a ternary model (BitCPM4) are held in about two
    bits per weight, which changes no logit; those of any other are refused with NotTernary. "ternary" rounds
    its head to 8 bits besides. "int8" and "int4" round the projections of any model while they are read, to 8
    or 4 bits per weight, and the head to 8. Matrices that the checkpoint holds in codes (GPTQ, AutoAWQ,
    Marlin, MLX, our own) stay in them: the file decides, and only the others are rounded. `kv` says how the
    cache of `context` tokens will be held, and is refused where no cache can be.
    """
    check_holding(weights)
    config = read_config(checkpoint, context=context, sparse=sparse)
    model = require_kind(blank(config), kind, checkpoint)
    name = weight_dtype(config, dtype, weights)
    target = find_device(device)
    check_backend(backend)
    check_tokenizer(checkpoint.path, config, checkpoint.generation)
    needed = {n: p.shape for n, p in model.named_parameters()}
    checkpoint = with_prefix(checkpoint, needed)
    check_tensors(needed, checkpoint, unused=model.unused)
    check_held(checkpoint, weights)
    check_tied_head(checkpoint, config, model.unused)
    number = getattr(torch, name)
    ops = choose_backend(backend, dtype=number, device=target, threads=threads) if prepare else None
    if ops is not None:
        require_kv(kv, config, ops, dtype=number, device=target)
    native = ops is not None and ops.runtime is not None
    plan = plan_load(
        checkpoint, config, name, tokens=context or 0, device=target, weights=weights, kv=kv, native=native
    )
    repacked = weights != "plain" or bool(checkpoint.packed)
    cache = packed_cache(checkpoint, weights) if native and repacked else None
    file = None if cache is None else cache.open()
    done, restored = 0, False
    if cache is not None and file is not None and ops is not None and ops.runtime is not None:
        require_fit(kept_plan(plan, config, file, name))
        restored = cache.restore(model, file, ops.runtime)
    if not restored:
        done = _hold(model, checkpoint, plan, weights=weights, device=target, progress=progress)
    _allocate(model, name, target)
    fill(model, checkpoint, done=done, progress=progress)
    if ops is None:
        return model
    if file is not None and not restored:  # what was read in vain lies in the memory of the first
        number = getattr(torch, name)
    ops = choose_backend(backend, dtype=number, device=target, threads=threads)
    model.prepare(ops)
    if cache is not None and not restored:
        cache.keep(model)
    return model.eval()


def _hold(
    model: Trunk,
    checkpoint: Checkpoint,
    plan: MemoryPlan,
    *,
    weights: str,
    device: torch.device,
    progress: Progress | None,
) -> int:
    """Let packed matrices take the place of some on the meta device, if they fit; the bytes read for that."""
    parts = rounded_parts(model, weights) if weights in ROUNDED_HEADS else {}
    read = partial(
        fill_from_codes, model, checkpoint, dtype=getattr(torch, plan.dtype), device=device, progress=progress
    )
    packed = {name: source for name, source in checkpoint.packed.items() if name not in model.unused}
    plan = codes_plan(plan, model.config, packed, parts)
    parts = {name: bits for name, bits in parts.items() if f"{name}.weight" not in packed}
    if weights == "plain":
        require_fit(plan)
        return read()
    if parts:
        plan = rounded_plan(plan, model.config, checkpoint, parts)
    if weights in BITS:
        require_fit(plan)
    else:
        dtype = getattr(torch, plan.dtype)
        packing = measure_packing(model, checkpoint, dtype)
        require_fit(packed_plan(plan, model, packing))
        fill_packed(model, checkpoint, packing.group, dtype=dtype, device=device)
    done = read()
    return fill_rounded(model, checkpoint, parts, device=device, done=done, progress=progress)


def load_decoder(
    path_or_name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    threads: int | None = None,
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
        threads=threads,
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


def weight_dtype(config: ModelConfig, wanted: str | torch.dtype, weights: str = "plain") -> str:
    """The full dtype name for `wanted`, beside weights held this way; BadParameter for what cannot be."""
    name = str(wanted)
    if name != "auto" or weights in ROUNDED_HEADS:
        return held_dtype(name, config.dtype, weights)
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
    weights: str = "plain",
    kv: str = AUTO,
    native: bool = False,
) -> MemoryPlan:
    """The memory plan of loading this checkpoint, then holding one sequence of `tokens` tokens.

    `native` weights are packed for the kernels: those of a stack are then there three times for a moment, and
    a head twice. Of packed and ternary projections it says what plain ones take; `packed_plan` knows more
    once they were read.
    """
    held = weights if weights in BITS else "plain"
    plan = plan_memory(config, dtype, tokens, weights=held, kv=kv, limit=_gpu_limit(device))
    if held == "plain":
        plan = replace(plan, weight_bytes=plan.weight_bytes - head_saving(config, dtype, weights))
    casts = [info.nbytes for info in checkpoint.tensors.values() if info.dtype != _STORED_AS[dtype]]
    packing = [2 * fusing_bytes(config, dtype), config.vocab * config.hidden * BYTES[dtype]] if native else []
    return replace(plan, scratch_bytes=max([plan.scratch_bytes, *casts, *packing]), weights=weights)


def _gpu_limit(device: torch.device | None) -> Limit | None:
    if device is None or device.type != "cuda":
        return None
    return Limit("the GPU's free memory", torch.cuda.mem_get_info(device)[0])


def find_device(device: str | torch.device) -> torch.device:
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
