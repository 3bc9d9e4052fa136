"""Fills a model with the matrices that a checkpoint holds in codes, one at a time.

Prepared natively, those of 8, 4, 3 and 2 bits in groups of a multiple of 16 are multiplied as codes, with
scales and offsets as float16. All others stay codes and are decoded for every product, which costs about as
much again as a plain model's reading of its weights.
"""

import torch
from torch import Tensor, nn

from minicpm.checkpoint.filling import is_finite, not_finite, place
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.rounded import hold
from minicpm.errors import BadParameter
from minicpm.models.trunk import Trunk
from minicpm.ops.native.memory import give_back
from minicpm.ops.quant_tensor import QuantTensor, Weight, decode, plain


def check_held(checkpoint: Checkpoint, weights: str) -> None:
    """Raise BadParameter where weights that are quantized already should be packed as ternary ones are."""
    if checkpoint.packed and weights in ("packed", "ternary"):
        formats = sorted({source.format for source in checkpoint.packed.values()})
        raise BadParameter(
            f"{weights} weights were asked for, which are packed out of plain ternary ones, and this "
            f"checkpoint holds {len(checkpoint.packed)} matrices in codes already ({', '.join(formats)}). "
            "They are loaded as they are: leave weights at plain, or say int8 or int4 to round the others."
        )


@torch.no_grad()
def fill_from_codes(
    model: Trunk,
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
) -> int:
    """Let what is held in codes take the place of parameters of a model on the meta device; the bytes read.

    A projection without a bias and an embedding keep their codes; any other parameter becomes plain. Names
    and shapes must have been checked. Beside what is kept one matrix is in memory. Raises NotFinite, naming
    every matrix with scales or values that are not finite.
    """
    stored = checkpoint.stored
    names = [name for name, _ in model.named_parameters()]
    total, done = sum(stored[name].nbytes for name in names), 0
    ours = {name: checkpoint.packed[name] for name in names if name in checkpoint.packed}
    bad: list[str] = []
    for name, source in sorted(ours.items(), key=lambda item: place(item[1])):
        weight = source.read(dtype)
        if not _is_finite(weight):
            bad.append(f"{name} in {source.file.name}")
        _put(model, name, weight, dtype, device)
        del weight
        give_back()  # what was read, or it would lie in pieces between what is kept
        done += source.nbytes
        if progress is not None:
            progress(done, total, source.file.name)
    if bad:
        raise not_finite(checkpoint, bad)
    return done


def _put(model: Trunk, name: str, weight: Weight, dtype: torch.dtype, device: torch.device) -> None:
    above, _, own = name.rpartition(".")
    module = model.get_submodule(above)
    if isinstance(weight, QuantTensor) and _keeps_codes(module):
        hold(model, above, weight.to(device))
    else:
        setattr(module, own, nn.Parameter(plain(weight).to(device, dtype), requires_grad=False))


def _keeps_codes(module: nn.Module) -> bool:
    return type(module) is nn.Embedding or (type(module) is nn.Linear and module.bias is None)


def _is_finite(weight: Weight) -> bool:
    """Whether every value is; those of codes from their scales, unless they could overflow the dtype."""
    if isinstance(weight, Tensor):
        return is_finite(weight)
    beside = [part for part in (weight.scales, weight.zeros, weight.offsets) if part is not None]
    if not all(is_finite(part) for part in beside if part.is_floating_point()):
        return False
    largest = sum(float(part.float().abs().max()) for part in beside if part is not weight.zeros)
    safe = largest * 2**weight.scheme.bits <= torch.finfo(weight.dtype).max
    return safe or is_finite(decode(weight))
