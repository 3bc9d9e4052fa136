"""Fills a model with projections and a head that are rounded to few bits, one tensor at a time."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from minicpm.checkpoint.filling import is_finite, not_finite, place
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.plan import MemoryPlan, fusing_bytes
from minicpm.checkpoint.progress import Progress
from minicpm.config import BYTES, ModelConfig
from minicpm.config.dtypes import BITS
from minicpm.config.holding import HEAD_BITS, group_of
from minicpm.layers.projection import projections
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.models.decoder import Decoder
from minicpm.models.trunk import Trunk
from minicpm.ops.native.memory import give_back
from minicpm.ops.quant_tensor import QuantTensor
from minicpm.quant.rounding import round_to, working_bytes

_ROUTER = "gate"  # its choice of experts is a comparison, which rounding could turn


def rounded_parts(model: Trunk, weights: str) -> dict[str, int]:
    """The bits of every module whose matrix is rounded, by its name; towers, routers and norms are not.

    Of "ternary" weights, whose projections are packed without rounding, the head's.
    """
    parts = dict.fromkeys(_heads(model), HEAD_BITS)
    if weights in BITS:
        inner = projections(model, model.model.layers)
        parts |= {name: BITS[weights] for name in inner if name.rpartition(".")[2] != _ROUTER}
    return {name: bits for name, bits in parts.items() if group_of(_width(model, name), bits) is not None}


def fill_rounded(
    model: Trunk,
    checkpoint: Checkpoint,
    parts: Mapping[str, int],
    *,
    device: torch.device,
    done: int = 0,
    progress: Progress | None = None,
) -> int:
    """Let rounded matrices take the place of those of a model on the meta device; the bytes read by then.

    `done` bytes of others have been read before. Beside them at most one tensor as stored, and as bfloat16,
    is in memory. Raises NotFinite as `fill` does.
    """
    plain = (name for name, _ in model.named_parameters() if name not in checkpoint.packed)
    total = done + sum(checkpoint.tensors[name].nbytes for name in plain)
    bad = []
    for name in sorted(parts, key=lambda name: place(checkpoint.tensors[f"{name}.weight"])):
        info = checkpoint.tensors[f"{name}.weight"]
        rounded = round_to(checkpoint.read(f"{name}.weight").to(device, torch.bfloat16), parts[name])
        hold(model, name, rounded)
        if not is_finite(rounded.scales):  # what is not finite is the peak of its group
            bad.append(f"{name}.weight in {info.file.name}")
        give_back()  # what was read, or it would lie in pieces between what is kept
        done += info.nbytes
        if progress is not None:
            progress(done, total, info.file.name)
    if bad:
        raise not_finite(checkpoint, bad)
    return done


def rounded_plan(
    plan: MemoryPlan, config: ModelConfig, checkpoint: Checkpoint, parts: Mapping[str, int]
) -> MemoryPlan:
    """The plan when these parts are rounded; the largest is in memory as it is stored for a moment."""
    rounded = {f"{name}.weight" for name in parts}
    reading = [_reading_bytes(info, name in rounded) for name, info in checkpoint.tensors.items()]
    # The codes of a stack are joined, and packed for the kernels, while those they come from are there still.
    joining = 2 * fusing_bytes(config, "bfloat16") * min(parts.values(), default=0) // 16
    return replace(plan, scratch_bytes=max(max(reading) + working_bytes(), joining))


def _reading_bytes(info: TensorInfo, rounded: bool) -> int:
    """What is there beside the result for a moment: the stored tensor if it does not stay, and a copy."""
    as_bfloat16 = info.dtype == "BF16"
    copy = math.prod(info.shape) * BYTES["bfloat16"] if rounded and not as_bfloat16 else 0
    return copy + (info.nbytes if rounded or not as_bfloat16 else 0)


def _heads(model: Trunk) -> Iterator[str]:
    """The name of the matrix that makes logits, if the model makes any."""
    if not isinstance(model, Decoder):
        return
    head = model.model.embed_tokens if model.config.tied else model.lm_head
    yield from (name for name, module in model.named_modules() if module is head)


def _width(model: Trunk, name: str) -> int:
    return int(model.get_parameter(f"{name}.weight").shape[1])


def hold(model: Trunk, name: str, weight: QuantTensor) -> None:
    """Let a packed matrix take the place of that of the module of this name."""
    parent, _, child = name.rpartition(".")
    above = model.get_submodule(parent)
    kind = QuantEmbedding if isinstance(getattr(above, child), nn.Embedding) else QuantLinear
    setattr(above, child, kind(weight))
