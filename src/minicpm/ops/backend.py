"""The table from operator to implementation, chosen once."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from minicpm.config import SparseConfig
from minicpm.errors import BadParameter
from minicpm.ops.attention import cpu as torch_attention
from minicpm.ops.attention import reference as reference_attention
from minicpm.ops.latent import cpu as torch_latent
from minicpm.ops.latent import reference as reference_latent
from minicpm.ops.lightning import chunked as chunked_lightning
from minicpm.ops.lightning import reference as reference_lightning
from minicpm.ops.rms_norm.reference import rms_norm
from minicpm.ops.rope.angles import Angles
from minicpm.ops.rope.reference import rotate
from minicpm.ops.sparse import cpu as torch_sparse
from minicpm.ops.sparse import reference as reference_sparse


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of every operator; the reference of each states shapes and dtypes."""

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

_BACKENDS = {backend.name: backend for backend in (REFERENCE, TORCH)}


def choose_backend(name: str) -> Backend:
    """The backend of that name, or the fastest for "auto"; raises BadParameter for an unknown one."""
    if name == "auto":
        return TORCH
    if name not in _BACKENDS:
        raise BadParameter(f"The backend {name!r} is not known. Use one of: auto, {', '.join(_BACKENDS)}.")
    return _BACKENDS[name]
