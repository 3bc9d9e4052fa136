"""Opens the folder of an adapter without reading a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minicpm.checkpoint.adapters.settings import CONFIG, AdapterSettings, read_settings
from minicpm.checkpoint.files import (
    file_names,
    inside,
    listed,
    read_object,
    readable,
    refuse_pointers,
    require_folder,
    shown,
)
from minicpm.checkpoint.header import TensorInfo, read_header
from minicpm.errors import NotACheckpoint, UnsafeFormat

WEIGHTS = "adapter_model.safetensors"
BIN = "adapter_model.bin"


@dataclass(frozen=True)
class Adapter:
    """A LoRA folder whose settings were understood; `tensors` maps PEFT's names to where they lie."""

    path: Path
    settings: AdapterSettings
    tensors: Mapping[str, TensorInfo] = field(repr=False)


def open_adapter(path: str | Path) -> Adapter:
    """Open a local adapter folder.

    Raises NotACheckpoint, BadConfig with every setting that is not supported, LfsPointer, TruncatedFile,
    MalformedFile or UnsafeFormat.
    """
    folder = require_folder(Path(path))
    with readable(folder):
        config, weights = inside(folder, CONFIG), inside(folder, WEIGHTS)
        if config is None:
            raise NotACheckpoint(
                f"{shown(str(folder))} has no {CONFIG}, so it is not an adapter. Found: "
                f"{listed(file_names(folder))}. Give the folder that PEFT saved."
            )
        refuse_pointers([config])
        settings = read_settings(read_object(config), str(folder))
        if weights is None:
            raise _without_weights(folder)
        refuse_pointers([weights])
        return Adapter(folder, settings, {_named(n): info for n, info in read_header(weights).items()})


def _named(name: str) -> str:
    """The name as PEFT writes it today; some versions gave magnitudes a `.weight` of their own."""
    old = ".lora_magnitude_vector.weight"
    return name.removesuffix(".weight") if name.endswith(old) else name


def _without_weights(folder: Path) -> NotACheckpoint | UnsafeFormat:
    if inside(folder, BIN) is not None:
        return UnsafeFormat(
            f"{shown(str(folder))} holds its weights only as {BIN}. Such files can run code when they are "
            f"opened, so they are never loaded directly. Convert it first: `minicpm convert "
            f"{shown(str(folder))} DEST`."
        )
    return NotACheckpoint(
        f"{shown(str(folder))} has no {WEIGHTS}. Found: {listed(file_names(folder))}. Fetch the weights into "
        "it, or give another folder."
    )
