"""Writes a model as a Hugging Face folder: the old one or the new one is there, never a half."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from minicpm.checkpoint.atomic import check_target, new_folder
from minicpm.checkpoint.disk import require_room, writing
from minicpm.checkpoint.folder import CONFIG, open_checkpoint
from minicpm.checkpoint.layouts.own import pack, quantization_config
from minicpm.checkpoint.layouts.settings import KEYS
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.writing import TensorSpec, spec_of, write_json, write_shards
from minicpm.errors import BadParameter
from minicpm.layers.native_linear import NativeEmbedding, NativeLinear
from minicpm.layers.quant_linear import QuantLinear
from minicpm.models.trunk import Trunk
from minicpm.ops.quant_tensor import QuantTensor

SHARD_BYTES = 5_000_000_000
_PLAIN_BITS = 16


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

    Those held in codes are written decoded: `save_packed` keeps them. The tokenizer, template, generation and
    licence files of the folder `source` are copied. A folder that holds anything is refused unless
    `overwrite`; then it is replaced as a whole, at once, at the end.
    """
    specs = [spec_of(name, tensor) for name, tensor in model.published_state()]
    return write_model(
        Path(path),
        config_of(model),
        specs,
        model.published_state(),
        companions=companions_of(source),
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
        progress=progress,
    )


def save_packed(
    model: Trunk,
    path: str | Path,
    *,
    source: str | Path | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """As `save`, but matrices held in codes are written as they are, in our own layout, one at a time.

    Opened again it is the same model to the last bit. Raises BadParameter for one whose codes lie in the
    layout of the native kernels, out of which they are not taken.
    """
    packed = _packed_modules(model)
    specs = [spec_of(name, tensor) for name, tensor in _stored_state(model, packed)]
    quantization = {KEYS[0]: quantization_config({n: p.scheme for n, p in packed.items()})} if packed else {}
    return write_model(
        Path(path),
        {**config_of(model), **quantization},
        specs,
        _stored_state(model, packed),
        companions=companions_of(source),
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
        progress=progress,
    )


def write_model(
    path: Path,
    config: Mapping[str, Any],
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    companions: Iterable[Path] = (),
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a folder of this config and of `tensors`, which come in the order of `specs`; returns it.

    Raises BadInput for a target that is not free, and DiskFull before anything is written where it can tell.
    """
    if max_shard_bytes < 1:
        raise BadParameter(f"max_shard_bytes is {max_shard_bytes}; it must be at least 1.")
    path = path.absolute()
    check_target(path, overwrite=overwrite)
    total = sum(spec.nbytes for spec in specs)
    require_room(path.parent, total)
    with writing(path, needed=total), new_folder(path, overwrite=overwrite) as beside:
        write_json(beside / CONFIG, config)
        copy_files(companions, beside)
        write_shards(beside, specs, tensors, max_shard_bytes=max_shard_bytes, progress=progress)
    return path


def config_of(model: Trunk) -> dict[str, Any]:
    """The raw config, with the dtype of the weights as they are, so that opening it gives the same bits.

    It says nothing of how they were quantized in the files they came from.
    """
    raw = {key: value for key, value in model.config.raw.items() if key not in KEYS}
    key = "dtype" if "dtype" in raw and "torch_dtype" not in raw else "torch_dtype"
    return {**raw, key: str(model.dtype).removeprefix("torch.")}


def companions_of(source: str | Path | None) -> list[Path]:
    """The files beside the weights of a model folder that a copy of it needs."""
    return [] if source is None else open_checkpoint(source).companions()


def _packed_modules(model: Trunk) -> dict[str, QuantTensor]:
    modules = dict(model.named_modules())
    held = (NativeLinear, NativeEmbedding)
    native = [name for name, m in modules.items() if isinstance(m, held) and m.matrix.bits < _PLAIN_BITS]
    if native:
        raise BadParameter(
            f"{len(native)} matrices lie in the layout of the native kernels, {native[0]} for one, and their "
            'codes are not taken out of it. Load the model with prepare=False or backend="torch" to save it.'
        )
    return {name: module.packed for name, module in modules.items() if isinstance(module, QuantLinear)}


def _stored_state(model: Trunk, packed: Mapping[str, QuantTensor]) -> Iterator[tuple[str, Tensor]]:
    """What files hold, one module at a time: codes and scales of packed ones, plain weights of others."""
    for name, module in model.named_modules():
        if name in packed:
            yield from pack(name, packed[name])
        elif isinstance(module, NativeLinear | NativeEmbedding):
            yield f"{name}.weight", module.weight
        else:
            prefix = f"{name}." if name else ""
            yield from ((prefix + own, p.detach()) for own, p in module.named_parameters(recurse=False))


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files under their names, forced to the disk."""
    for file in files:
        copy = folder / file.name
        shutil.copyfile(file, copy)
        with copy.open("rb+") as opened:
            os.fsync(opened.fileno())
