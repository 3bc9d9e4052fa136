"""Writes a model as one GGUF file for llama.cpp and Ollama, one tensor at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minicpm.checkpoint.atomic import check_target, new_file, new_folder, write_file
from minicpm.checkpoint.disk import require_room, writing
from minicpm.checkpoint.files import inside, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.gguf.config_out import architecture_for, config_metadata, losses, rope_tables
from minicpm.checkpoint.gguf.decoding import read_rows
from minicpm.checkpoint.gguf.encoding import encode_blocks, encode_codes
from minicpm.checkpoint.gguf.names import paired_heads, place_of
from minicpm.checkpoint.gguf.sampling import sampling_metadata
from minicpm.checkpoint.gguf.source import GgufSource
from minicpm.checkpoint.gguf.tokenizer_out import tokenizer_metadata
from minicpm.checkpoint.gguf.types import BlockType, by_name
from minicpm.checkpoint.gguf.values import Typed, string, u32
from minicpm.checkpoint.gguf.writing import TensorPlan, size_of, write_gguf
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.row_order import to_pairs
from minicpm.checkpoint.saving import copy_files
from minicpm.config import ModelConfig, MoE
from minicpm.convert.gguf_types import FileType, Mixture, file_type
from minicpm.convert.naming import name_of
from minicpm.convert.needed import Needed, needed_of
from minicpm.convert.ollama import MODELFILE, modelfile
from minicpm.convert.outcome import Outcome, sizes_in
from minicpm.convert.sums import write_sums
from minicpm.errors import BadInput, NotFinite
from minicpm.ops.quant_tensor import QuantTensor, Weight, plain
from minicpm.quant.ternary import common_group, measure

_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
_CHUNK_WEIGHTS = 1 << 22
_DTYPES = {"float32": "F32", "float16": "F16"}


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor of the file: its plan, and the published weights that lie in it one after the other."""

    plan: TensorPlan
    names: tuple[str, ...]
    paired: int | None


def to_gguf(
    source: Checkpoint,
    target: Path,
    *,
    type: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write NAME-TYPE.gguf, an Ollama Modelfile and SHA256SUMS into the folder `target`, at once, at the end.

    `type` is a name of `FILE_TYPES`; without one the weights keep the dtype of config.json. Matrices that
    are held in codes keep them where the type has their grid. With `dry_run` nothing is written or read.

    Raises BadInput for a model that llama.cpp does not know, a type that does not exist and a target that
    holds anything, TokenizerError, NotTernary for a ternary type of other weights, NotFinite, DiskFull.
    """
    target = target.absolute()
    needed = needed_of(source)
    kind = file_type(type or _DTYPES.get(needed.config.dtype, "BF16"))
    check_gguf_target(target, overwrite=overwrite)
    metadata = _metadata(needed, kind)
    parts = _parts(needed, kind)
    plans = [part.plan for part in parts]
    file_name = f"{name_of(source)}-{kind.name}.gguf"
    total = size_of(metadata, plans)
    notes = tuple(losses(needed.config))
    if dry_run:
        return Outcome(target, {file_name: total}, notes)
    require_room(target.parent, total)
    if kind.ternary:
        _require_ternary(needed)
    with writing(target, needed=total), new_folder(target, overwrite=overwrite) as beside:
        with new_file(beside / file_name) as file:
            write_gguf(file, metadata, plans, _contents(needed, parts), progress)
        write_file(beside / MODELFILE, modelfile(file_name, source, needed.config).encode())
        copy_files(filter(None, (inside(source.path, name) for name in _LICENCES)), beside)
        write_sums(beside)
    return Outcome(target, sizes_in(target), notes)


def check_gguf_target(target: Path, *, overwrite: bool) -> None:
    """Raise BadInput unless `target` is free to become a folder that holds a GGUF file."""
    if target.suffix == ".gguf" and not target.is_dir():
        raise BadInput(
            f"{shown(str(target))} names a file. A GGUF file is written into a folder, with a Modelfile for "
            f"Ollama and a list of sums: name the folder, as {shown(str(target.with_suffix('')))}."
        )
    check_target(target, overwrite=overwrite)


def _metadata(needed: Needed, kind: FileType) -> dict[str, Typed]:
    config, source = needed.config, needed.checkpoint
    general = {
        "general.architecture": string(architecture_for(config)),
        "general.type": string("model"),
        "general.name": string(name_of(source)),
        "general.file_type": u32(kind.number),
        "general.quantization_version": u32(2),
    }
    tokenizer = tokenizer_metadata(source.path, config, _ends(config, source))
    return general | config_metadata(config) | sampling_metadata(source.generation) | tokenizer


def _ends(config: ModelConfig, source: Checkpoint) -> list[int]:
    stated = source.generation.get("eos_token_id")
    listed = stated if isinstance(stated, list) else [stated]
    return list(dict.fromkeys([*config.eos, *(number for number in listed if type(number) is int)]))


def _parts(needed: Needed, kind: FileType) -> list[_Part]:
    """The tensors of the file in their order; experts of a layer become one."""
    config = needed.config
    architecture = architecture_for(config)
    ffn = config.layers[0].ffn
    experts = ffn.experts if isinstance(ffn, MoE) else 0
    mixture = Mixture(kind, len(config.layers), experts, config.tied)
    parts = [
        _Part(TensorPlan(name, (len(table),), by_name("F32")), (), None)
        for name, table in rope_tables(config).items()
    ]
    for name, members in _members(needed).items():
        shape = needed.shapes[members[0]]
        type = mixture.type_of(name, shape[-1], len(shape))
        whole = (len(members), *shape) if name.endswith("_exps.weight") else shape
        paired = paired_heads(architecture, members[0], config)
        parts.append(_Part(TensorPlan(name, whole, type), tuple(members), paired))
    return parts


def _members(needed: Needed) -> dict[str, list[str]]:
    """The published weights in each tensor of the file, experts in their order."""
    members: dict[str, list[str]] = {}
    for published in needed.shapes:
        place = place_of(published)
        assert place is not None, f"{published} has no name in GGUF"
        members.setdefault(place.name, []).append(published)
    return members


def _contents(needed: Needed, parts: Sequence[_Part]) -> Iterator[Tensor]:
    tables = rope_tables(needed.config)
    for part in parts:
        if part.plan.name in tables:
            yield torch.tensor(tables[part.plan.name], dtype=torch.float32)
        elif len(part.names) == 1:
            yield _blocks(needed, part, part.names[0])
        else:
            yield torch.cat([_blocks(needed, part, name) for name in part.names])


def _blocks(needed: Needed, part: _Part, name: str) -> Tensor:
    """One published weight in the type of the tensor that it lies in."""
    held = needed.checkpoint.packed.get(name)
    if isinstance(held, GgufSource) and (held.tensor.type, held.paired) == (part.plan.type, part.paired):
        return read_rows(held.tensor)
    weight = needed.read(name)
    try:
        return encoded(part.plan.type, weight if part.paired is None else to_pairs(weight, part.paired))
    except NotFinite as error:
        raise NotFinite(f"{name} of {shown(str(needed.checkpoint.path))}: {error}") from error


def encoded(type: BlockType, weight: Weight) -> Tensor:
    """A weight as blocks, uint8 [rows, row bytes]; codes stay as they are where the type has their grid."""
    if isinstance(weight, QuantTensor):
        codes = encode_codes(type, weight)
        if codes is not None:
            return codes
    matrix = plain(weight)
    matrix = matrix[None] if matrix.ndim == 1 else matrix
    rows = max(_CHUNK_WEIGHTS // matrix.shape[1], 1)
    starts = range(0, len(matrix), rows)
    return torch.cat([encode_blocks(type, matrix[start : start + rows].float()) for start in starts])


def _require_ternary(needed: Needed) -> None:
    """Raise NotTernary unless every projection is ternary in groups that blocks of 256 hold exactly."""
    fits = {name: measure(plain(needed.read(name))) for name in needed.projections}
    group = common_group(fits)
    block = by_name("TQ2_0").block
    if group != "row" and group % block:
        raise BadInput(
            f"The model is ternary in groups of {group} weights, and the ternary types of GGUF have one "
            f"scale for {block}. It would become another model; use --type Q8_0, or F16, which is exact."
        )
