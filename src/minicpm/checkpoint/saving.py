"""Writes a model as a Hugging Face folder: the old one or the new one is there, never a half."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minicpm.checkpoint.atomic import check_target, new_folder
from minicpm.checkpoint.disk import require_room, writing
from minicpm.checkpoint.folder import CONFIG, open_checkpoint
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.writing import spec_of, write_json, write_shards
from minicpm.errors import BadParameter
from minicpm.models.trunk import Trunk

SHARD_BYTES = 5_000_000_000


def save(
    model: Trunk,
    path: str | Path,
    *,
    source: str | Path | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write config.json and the weights under their published names, prepared or not; returns the folder.

    The tokenizer, template, generation and licence files of the folder `source` are copied. A folder that
    holds anything is refused unless `overwrite`; then it is replaced as a whole, at once, at the end.
    """
    if max_shard_bytes < 1:
        raise BadParameter(f"max_shard_bytes is {max_shard_bytes}; it must be at least 1.")
    path = Path(path).absolute()
    check_target(path, overwrite=overwrite)
    specs = [spec_of(name, tensor) for name, tensor in model.published_state()]
    total = sum(spec.nbytes for spec in specs)
    require_room(path.parent, total)
    companions = open_checkpoint(source).companions() if source is not None else []
    with writing(path, needed=total), new_folder(path, overwrite=overwrite) as beside:
        write_json(beside / CONFIG, _config(model))
        copy_files(companions, beside)
        write_shards(
            beside, specs, model.published_state(), max_shard_bytes=max_shard_bytes, progress=progress
        )
    return path


def _config(model: Trunk) -> dict[str, Any]:
    """The raw config, with the dtype of the weights as they are, so that opening it gives the same bits."""
    raw = dict(model.config.raw)
    key = "dtype" if "dtype" in raw and "torch_dtype" not in raw else "torch_dtype"
    return {**raw, key: str(model.dtype).removeprefix("torch.")}


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files under their names, forced to the disk."""
    for file in files:
        copy = folder / file.name
        shutil.copyfile(file, copy)
        with copy.open("rb+") as opened:
            os.fsync(opened.fileno())
