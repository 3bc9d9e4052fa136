"""Makes the folder of a quantized model from its finished parts."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minicpm.checkpoint.atomic import new_folder
from minicpm.checkpoint.files import shown
from minicpm.checkpoint.folder import CONFIG
from minicpm.checkpoint.header import read_header
from minicpm.checkpoint.layouts import own
from minicpm.checkpoint.saving import copy_files
from minicpm.checkpoint.shards import SINGLE
from minicpm.checkpoint.writing import write_index, write_json
from minicpm.convert.quantizing.parts import Source
from minicpm.convert.quantizing.work import Work
from minicpm.errors import MalformedFile
from minicpm.ops.quant_tensor import Scheme

_QUANTIZATION = ("quantization_config", "quantization")
"""What config.json calls how the source was quantized, which the result is not."""


def publish(work: Work, parts: Sequence[str], source: Source, target: Path, *, overwrite: bool) -> None:
    """Let the finished parts become the folder `target`, at once; the work is then removed."""
    schemes: dict[str, Scheme] = {}
    for part in parts:
        note = work.note(part)
        assert note is not None, f"{part} is not finished"
        schemes |= note.schemes
    with new_folder(target, overwrite=overwrite) as beside:
        write_json(beside / CONFIG, _config(source, schemes))
        copy_files(source.checkpoint.companions(), beside)
        _gather([work.weights(part) for part in parts], beside)
    work.discard()


def _config(source: Source, schemes: dict[str, Scheme]) -> dict[str, Any]:
    raw = {key: value for key, value in source.config.raw.items() if key not in _QUANTIZATION}
    return raw | {"quantization_config": own.quantization_config(schemes)}


def _gather(files: Sequence[Path], folder: Path) -> None:
    """The parts as shards, without a copy where the disk can link files, and their index."""
    names = [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    names = [SINGLE] if len(files) == 1 else names
    placed: dict[str, str] = {}
    total = 0
    for file, name in zip(files, names, strict=True):
        _link(file, folder / name)
        header = read_header(folder / name)
        placed |= dict.fromkeys(header, name)
        total += sum(info.nbytes for info in header.values())
    if len(files) > 1:
        write_index(folder, placed, total)


def _link(file: Path, place: Path) -> None:
    if not file.exists():
        raise MalformedFile(
            f"{shown(str(file))} is gone, although it was finished. Remove its folder and start again."
        )
    try:
        os.link(file, place)
    except OSError:  # a disk without links
        shutil.copyfile(file, place)
        with place.open("rb+") as opened:
            os.fsync(opened.fileno())
