"""Writes a converted model as a folder that transformers and vLLM read, with a list of sums."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from minicpm.checkpoint.atomic import check_target, new_folder
from minicpm.checkpoint.disk import require_room, writing
from minicpm.checkpoint.folder import CONFIG, Checkpoint
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.saving import SHARD_BYTES, copy_files
from minicpm.checkpoint.writing import TensorSpec, shard_bytes, write_json, write_shards
from minicpm.convert.outcome import Outcome, sizes_in
from minicpm.convert.sums import write_sums


@dataclass(frozen=True)
class Folder:
    """What is to be written: the config, and tensors that come one at a time, in the order of `specs`."""

    config: Mapping[str, Any]
    specs: Sequence[TensorSpec]
    tensors: Iterable[tuple[str, Tensor]]
    notes: tuple[str, ...] = ()


def write_folder(
    folder: Folder,
    source: Checkpoint,
    target: Path,
    *,
    overwrite: bool,
    progress: Progress | None,
    dry_run: bool,
) -> Outcome:
    """Write it beside `target`, which it becomes at once, at the end; nothing is written with `dry_run`.

    Raises BadInput for a target that holds anything unless `overwrite`, and DiskFull.
    """
    target = target.absolute()
    check_target(target, overwrite=overwrite)
    if dry_run:
        return Outcome(target, shard_bytes(folder.specs, SHARD_BYTES), folder.notes)
    total = sum(spec.nbytes for spec in folder.specs)
    require_room(target.parent, total)
    with writing(target, needed=total), new_folder(target, overwrite=overwrite) as beside:
        write_json(beside / CONFIG, folder.config)
        copy_files(source.companions(), beside)
        write_shards(beside, folder.specs, folder.tensors, max_shard_bytes=SHARD_BYTES, progress=progress)
        write_sums(beside)
    return Outcome(target, sizes_in(target), folder.notes)
