"""Streams a checkpoint into a module's parameters, one tensor at a time, refusing NaN and infinity."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.packed_source import PackedSource
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.reading import TORCH_DTYPES, read_into, read_tensor
from minicpm.errors import NotFinite


@torch.no_grad()
def fill(
    module: nn.Module, checkpoint: Checkpoint, *, done: int = 0, progress: Progress | None = None
) -> None:
    """Overwrite every parameter with the tensor of its name, cast to the parameter's dtype.

    Those that the checkpoint holds in codes are left alone. `done` bytes of others have been read before,
    which progress counts as well.

    Names and shapes must have been checked. Beside the parameters at most one tensor is in memory, and
    none where no cast or device copy is needed. Raises NotFinite, naming every tensor that is bad as
    stored or overflows in the cast.
    """
    plain = [item for item in module.named_parameters() if item[0] not in checkpoint.packed]
    parameters = sorted(plain, key=lambda item: place(checkpoint.tensors[item[0]]))
    total = done + sum(checkpoint.tensors[name].nbytes for name, _ in parameters)
    bad: list[str] = []
    for name, parameter in parameters:
        info = checkpoint.tensors[name]
        bad += _fill_one(name, parameter.data, info)
        done += info.nbytes
        if progress is not None:
            progress(done, total, info.file.name)
    if bad:
        raise not_finite(checkpoint, bad)


def place(info: TensorInfo | PackedSource) -> tuple[str, int]:
    """Order of the disk, so that files are read from front to back."""
    return info.file.name, info.offset


def _fill_one(name: str, out: Tensor, info: TensorInfo) -> list[str]:
    """Fill one parameter; a description when values are not finite."""
    if TORCH_DTYPES[info.dtype] == out.dtype and out.device.type == "cpu":
        read_into(out, info)
        return [] if is_finite(out) else [f"{name} in {info.file.name}"]
    stored = read_tensor(info)
    out.copy_(stored)
    if is_finite(out):
        return []
    why = (
        "" if not is_finite(stored) else f" (its values overflow in {str(out.dtype).removeprefix('torch.')})"
    )
    return [f"{name} in {info.file.name}{why}"]


def is_finite(tensor: Tensor) -> bool:
    """True when no element is NaN or infinite; the extremes show both without a mask of the tensor's size."""
    if tensor.numel() == 0:
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def not_finite(checkpoint: Checkpoint, bad: Sequence[str]) -> NotFinite:
    """The error for tensors that are not finite, each named with its file."""
    return NotFinite(
        f"{len(bad)} tensors of {shown(str(checkpoint.path))} hold NaN or infinity: {listed(sorted(bad))}. "
        "Every answer would be noise, so the model is not loaded. Fetch the checkpoint again, or load it "
        "with "
        'dtype="float32" if values overflow in float16.'
    )
