"""Finds what a conversion starts from, and calls the function that makes the format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.errors import BadInput, MiniCPMError

if TYPE_CHECKING:
    from minicpm.checkpoint import Checkpoint
    from minicpm.cli.progress import Report
    from minicpm.convert.outcome import Outcome

_GGUF, _SAFETENSORS = "gguf", "safetensors"
_ADAPTER = "adapter_config.json"
# Module and function by format; each takes a checkpoint and a folder.
_EXPORTS: Mapping[str, tuple[str, str]] = {
    _SAFETENSORS: ("minicpm.convert.safetensors_export", "to_safetensors"),
    _GGUF: ("minicpm.convert.gguf_export", "to_gguf"),
    "llama": ("minicpm.convert.layouts_export", "to_llama"),
    "gptq": ("minicpm.convert.layouts_export", "to_gptq"),
    "awq": ("minicpm.convert.layouts_export", "to_awq"),
    "mlx": ("minicpm.convert.layouts_export", "to_mlx"),
}


@dataclass(frozen=True, slots=True)
class Order:
    """The command line: what to turn into what, and where to write it."""

    source: str
    target: str
    to: str
    type: str | None = None
    base: str | None = None
    overwrite: bool = False
    dry_run: bool = False


def convert(order: Order, progress: "Report") -> "Outcome":
    """Do it, or with `dry_run` say what it would take; the errors are those of the export."""
    if order.type is not None and order.to != _GGUF:
        raise BadInput(f"--type {order.type} is a choice for --to gguf, and --to {order.to} was asked for.")
    if order.to == _GGUF and (Path(order.source) / _ADAPTER).is_file():
        return _adapter(order, progress)
    if order.base is not None:
        raise BadInput(f"--base {order.base} is for a LoRA --to gguf, and {order.source} is none.")
    if order.to == _SAFETENSORS:
        opened = _opened_codes(order.source)
        if opened is None:
            return _legacy(order, progress)
        return _export(order, opened, progress)
    return _export(order, _open(order.source), progress)


def _export(order: Order, source: "Checkpoint", progress: "Report") -> "Outcome":
    module, name = _EXPORTS[order.to]
    function: Callable[..., Outcome] = getattr(import_module(module), name)
    more: dict[str, Any] = {"type": order.type} if order.type is not None else {}
    return function(
        source,
        Path(order.target),
        overwrite=order.overwrite,
        progress=progress,
        dry_run=order.dry_run,
        **more,
    )


def _open(name: str) -> "Checkpoint":
    from minicpm.checkpoint import open_checkpoint, resolve

    return open_checkpoint(resolve(name, offline=True))


def _opened_codes(name: str) -> "Checkpoint | None":
    """The checkpoint when it is one whose weights are not plain safetensors already."""
    from minicpm.checkpoint.gguf.finding import gguf_in

    try:
        opened = _open(name)
    except MiniCPMError:
        if gguf_in(Path(name)) is not None:
            raise
        return None  # legacy weights cannot be opened, and what else is wrong is said there
    return opened if opened.packed or gguf_in(Path(name)) is not None else None


def _legacy(order: Order, progress: "Report") -> "Outcome":
    from minicpm.checkpoint import bins
    from minicpm.convert.outcome import Outcome, sizes_in

    if order.dry_run:
        files = [file for file in Path(order.source).glob("*.bin") if file.is_file()]
        return Outcome(Path(order.target), {"*.safetensors": sum(file.stat().st_size for file in files)})
    folder = bins.convert_bin(order.source, order.target, overwrite=order.overwrite, progress=progress)
    return Outcome(Path(order.target), sizes_in(folder))


def _adapter(order: Order, progress: "Report") -> "Outcome":
    from minicpm.checkpoint.adapters import open_adapter
    from minicpm.convert.lora_export import lora_to_gguf

    if order.type is not None:
        raise BadInput(f"--type {order.type} is for models; a LoRA is written in float32.")
    adapter = open_adapter(order.source)
    base = order.base or adapter.settings.base
    if base is None:
        raise BadInput(f"{order.source} does not say which model it is for. Name it with --base.")
    return lora_to_gguf(
        adapter,
        _open(base),
        Path(order.target),
        overwrite=order.overwrite,
        progress=progress,
        dry_run=order.dry_run,
    )
