"""Writes a model as the folder that Hugging Face publishes: config.json and plain weights in safetensors."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.layouts.settings import KEYS
from minicpm.checkpoint.loading import weight_dtype
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.reading import NAMES
from minicpm.checkpoint.writing import TensorSpec
from minicpm.convert.hf_folder import Folder, write_folder
from minicpm.convert.needed import Needed, needed_of
from minicpm.convert.outcome import Outcome
from minicpm.ops.quant_tensor import plain


def to_safetensors(
    source: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write the folder `target` at once, at the end; weights are decoded to the dtype of config.json.

    Beside the files, one tensor is in memory. With `dry_run` nothing is written or read. Raises BadInput for
    a target that holds anything, the errors of `needed_of`, and DiskFull.
    """
    needed = needed_of(source)
    dtype: torch.dtype = getattr(torch, weight_dtype(needed.config, "auto"))
    specs = [TensorSpec(name, NAMES[dtype], shape) for name, shape in needed.shapes.items()]
    # What the config says of codes is no longer so.
    config = {key: value for key, value in source.raw_config.items() if key not in KEYS}
    folder = Folder(config, specs, _weights(needed, dtype))
    return write_folder(folder, source, target, overwrite=overwrite, progress=progress, dry_run=dry_run)


def _weights(needed: Needed, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name in needed.shapes:
        yield name, plain(needed.read(name)).to(dtype)
