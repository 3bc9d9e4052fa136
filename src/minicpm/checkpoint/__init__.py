"""Names and bytes in, a loaded module out, and back; torch is imported only when tensors are touched."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicpm.checkpoint.bins import convert_bin
    from minicpm.checkpoint.drafts import load_draft
    from minicpm.checkpoint.folder import Checkpoint, open_checkpoint
    from minicpm.checkpoint.header import TensorInfo
    from minicpm.checkpoint.hub.local import LocalModel, list_models, remove
    from minicpm.checkpoint.hub.pull import pull
    from minicpm.checkpoint.loading import load, load_as, load_decoder
    from minicpm.checkpoint.plan import MemoryPlan, plan_memory
    from minicpm.checkpoint.progress import Progress
    from minicpm.checkpoint.resolving import resolve
    from minicpm.checkpoint.saving import save, save_packed

__all__ = [
    "Checkpoint",
    "LocalModel",
    "MemoryPlan",
    "Progress",
    "TensorInfo",
    "convert_bin",
    "list_models",
    "load",
    "load_as",
    "load_decoder",
    "load_draft",
    "open_checkpoint",
    "plan_memory",
    "pull",
    "remove",
    "resolve",
    "save",
    "save_packed",
]

# Where each name lives. No file has the name of a function here: importing it would replace the function.
_HOME = {
    "Checkpoint": "folder",
    "LocalModel": "hub.local",
    "MemoryPlan": "plan",
    "Progress": "progress",
    "TensorInfo": "header",
    "convert_bin": "bins",
    "list_models": "hub.local",
    "load": "loading",
    "load_as": "loading",
    "load_decoder": "loading",
    "load_draft": "drafts",
    "open_checkpoint": "folder",
    "plan_memory": "plan",
    "pull": "hub.pull",
    "remove": "hub.local",
    "resolve": "resolving",
    "save": "saving",
    "save_packed": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
