"""Builds a model uninitialised: shapes first, memory later, for a checkpoint fills every weight."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minicpm.config import ModelConfig
from minicpm.models.build import build
from minicpm.models.trunk import Trunk

_M = TypeVar("_M", bound=nn.Module)


class _WithoutInit(TorchFunctionMode):
    """Makes torch.nn.init do nothing; filling meta tensors would import torch's compiler, for seconds."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        # Some wrappers of attribute access have no module.
        if getattr(function, "__module__", None) == "torch.nn.init":
            return named.get("tensor", args[0] if args else None)
        return function(*args, **named)


def blank(config: ModelConfig) -> Trunk:
    """The module of a config on the meta device: shapes and names without memory."""
    return on_meta(lambda: build(config))


def on_meta(make: Callable[[], _M]) -> _M:
    """The module that `make` gives, on the meta device."""
    with torch.device("meta"), _WithoutInit():
        return make()


def allocate(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter that is on the meta device memory, not initialised."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not parameter.is_meta:
                continue
            empty = _empty(parameter, dtype, device)
            setattr(part, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))


def _empty(like: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(like.shape, dtype=dtype, device=device)
