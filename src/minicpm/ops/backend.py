"""The table from operator to implementation, chosen once."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minicpm.config import SparseConfig
from minicpm.errors import BadParameter
from minicpm.ops.attention import cpu as torch_attention
from minicpm.ops.attention import reference as reference_attention
from minicpm.ops.latent import cpu as torch_latent
from minicpm.ops.latent import reference as reference_latent
from minicpm.ops.lightning import chunked as chunked_lightning
from minicpm.ops.lightning import reference as reference_lightning
from minicpm.ops.native import absence
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.rms_norm.reference import rms_norm
from minicpm.ops.rope.angles import Angles
from minicpm.ops.rope.reference import rotate
from minicpm.ops.sparse import cpu as torch_sparse
from minicpm.ops.sparse import reference as reference_sparse


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of every operator; the reference of each states shapes and dtypes.

    With a `runtime` layers hold their weights in the layout of the native kernels, and use coarse operators
    over them where there are any; the others are those of torch.
    """

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Angles], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    attend_equal: Callable[[Tensor, Tensor, Tensor], Tensor]
    attend_full: Callable[[Tensor, Tensor, Tensor], Tensor]
    attend_latent: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    attend_sparse: Callable[..., Tensor]
    compress: Callable[[Tensor, SparseConfig], Tensor]
    lightning: Callable[..., tuple[Tensor, Tensor]]
    runtime: Runtime | None = None


REFERENCE = Backend(
    name="reference",
    rms_norm=rms_norm,
    rotate=rotate,
    attend=reference_attention.attend,
    attend_equal=reference_attention.attend_equal,
    attend_full=reference_attention.attend_full,
    attend_latent=reference_latent.attend_latent,
    attend_sparse=reference_sparse.attend,
    compress=reference_sparse.compress,
    lightning=reference_lightning.recurrent,
)
TORCH = Backend(
    name="torch",
    rms_norm=rms_norm,
    rotate=rotate,
    attend=torch_attention.attend,
    attend_equal=torch_attention.attend_equal,
    attend_full=torch_attention.attend_full,
    attend_latent=torch_latent.attend_latent,
    attend_sparse=torch_sparse.attend,
    compress=torch_sparse.compress,
    lightning=chunked_lightning.chunked,
)

NATIVE = "native"
_BACKENDS = {backend.name: backend for backend in (REFERENCE, TORCH)}


def backend_names() -> list[str]:
    """What `choose_backend` knows."""
    return ["auto", NATIVE, *_BACKENDS]


def check_backend(name: str) -> None:
    """Raise BadParameter, listing the known ones, for the name of no backend."""
    if name not in backend_names():
        raise BadParameter(f"The backend {name!r} is not known. Use one of: {', '.join(backend_names())}.")


def choose_backend(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    threads: int | None = None,
) -> Backend:
    """The backend of that name for weights of this dtype on this device; "auto" is the fastest.

    Raises BadParameter for an unknown name, and for "native" where it cannot be had.
    """
    check_backend(name)
    if name in _BACKENDS:
        return _BACKENDS[name]
    reason = why_not_native(dtype, device)
    if reason is None:
        return replace(TORCH, name=NATIVE, runtime=Runtime(threads))
    if name == NATIVE:
        raise BadParameter(f"The native backend cannot be used: {reason}. Leave the backend at auto.")
    return TORCH


def why_not_native(dtype: torch.dtype, device: torch.device | None = None) -> str | None:
    """Why a model of this dtype on this device goes without the native kernels; None when it need not."""
    if device is not None and device.type != "cpu":
        return f"the model is on {device}, and its kernels are for a CPU"
    if dtype != torch.bfloat16:
        return f"weights are held as {str(dtype).removeprefix('torch.')}, and its kernels compute in bfloat16"
    return absence()
