"""Whether a model's keys and values can be held as a user asks."""

import torch

from minicpm.config import ModelConfig
from minicpm.config.kv import AUTO, check_kv, why_not_int8
from minicpm.errors import BadParameter
from minicpm.ops.backend import Backend, why_not_native


def require_kv(
    kv: str, config: ModelConfig, backend: Backend, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise BadParameter unless a model of this dtype on this backend can hold keys and values so."""
    check_kv(kv)
    if kv == AUTO:
        return
    reason = _why_no_kernels(backend, dtype, device) or why_not_int8(config)
    if reason is not None:
        raise BadParameter(
            f"Keys and values were asked for in {kv}, which only the native kernels read, and here they "
            f"cannot: {reason}. Leave kv at auto, or use a bfloat16 model on a CPU with the native backend."
        )


def _why_no_kernels(backend: Backend, dtype: torch.dtype, device: torch.device) -> str | None:
    reason = why_not_native(dtype, device)
    if reason is None and backend.runtime is None:
        return f"the model is computed by the {backend.name} backend"
    return reason
