"""Finds the safetensors files of a folder and joins their headers, single or sharded."""

from collections.abc import Mapping
from pathlib import Path

from minicpm.checkpoint.files import file_names, inside, listed, read_object, refuse_pointers, shown
from minicpm.checkpoint.header import MAX_TENSORS, TensorInfo, read_header
from minicpm.errors import MalformedFile, NotACheckpoint, UnsafeFormat

SINGLE = "model.safetensors"
_ENDING = ".safetensors"
# What CPM.cu's converter writes, and what its loader looks for.
_OTHER_SINGLES = ("model_gptq.safetensors", "model_gptq_marlin.safetensors")
INDEX = "model.safetensors.index.json"
_UNSAFE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the folder by name, from headers only.

    Raises UnsafeFormat when only pickle files hold weights, and one error per kind of damage otherwise.
    """
    single, index = inside(folder, SINGLE), inside(folder, INDEX)
    if single is None and index is not None:
        return _read_sharded(folder, index)
    single = single or _other_single(folder)
    if single is None:
        raise _without_weights(folder)
    refuse_pointers([single])
    return read_header(single)


def _other_single(folder: Path) -> Path | None:
    """A file that holds all weights under a name of another program, as the only one there may."""
    names = [name for name in file_names(folder) if name.endswith(_ENDING)]
    known = [name for name in _OTHER_SINGLES if name in names]
    return inside(folder, known[0] if known else names[0]) if known or len(names) == 1 else None


def _without_weights(folder: Path) -> NotACheckpoint | UnsafeFormat:
    names = file_names(folder)
    unsafe = [name for name in names if name.endswith(_UNSAFE_ENDINGS)]
    if unsafe:
        return UnsafeFormat(
            f"{shown(str(folder))} holds its weights only as {listed(unsafe)}. Such files can run code when "
            "they are opened, so they are never loaded directly. Convert them first: `minicpm convert "
            f"{shown(str(folder))} DEST`."
        )
    return NotACheckpoint(
        f"{shown(str(folder))} has no {SINGLE} and no {INDEX}. Found: {listed(names)}. "
        "Fetch the weights into it, or give another folder."
    )


def _read_sharded(folder: Path, index: Path) -> dict[str, TensorInfo]:
    refuse_pointers([index])
    placed = weight_map(index)
    shards = shard_files(folder, index, set(placed.values()))
    refuse_pointers(shards.values())
    tensors = _join({name: read_header(path) for name, path in sorted(shards.items())}, index)
    _check_against_index(tensors, placed, index)
    return tensors


def weight_map(index: Path) -> dict[str, str]:
    """Tensor name to file name, as an index file gives it."""
    mapping = read_object(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(v, str) for v in mapping.values()):
        raise _broken(index, "has no weight_map from tensor names to file names")
    if len(mapping) > MAX_TENSORS:
        raise _broken(index, f"names {len(mapping)} tensors, more than the {MAX_TENSORS} accepted")
    return mapping


def shard_files(folder: Path, index: Path, names: set[str]) -> dict[str, Path]:
    """The files an index names; raises MalformedFile for absent ones and for shards it does not name."""
    found = {name: inside(folder, name) for name in sorted(names)}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        raise _broken(index, f"names files that are not in the folder: {listed(absent)}")
    extra = [name for name in file_names(folder) if _is_shard(name) and name not in names]
    if extra:
        raise _broken(index, f"does not name these shards of the folder: {listed(extra)}")
    return {name: path for name, path in found.items() if path is not None}


def _is_shard(name: str) -> bool:
    return name.startswith("model-") and "-of-" in name and name.endswith(".safetensors")


def _join(headers: Mapping[str, dict[str, TensorInfo]], index: Path) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    twice: set[str] = set()
    for header in headers.values():
        twice |= tensors.keys() & header.keys()
        tensors.update(header)
    if twice:
        raise _broken(index, f"joins shards that hold the same tensors twice: {listed(sorted(twice))}")
    return tensors


def _check_against_index(tensors: Mapping[str, TensorInfo], placed: Mapping[str, str], index: Path) -> None:
    lost = sorted(
        name for name, shard in placed.items() if name not in tensors or tensors[name].file.name != shard
    )
    unnamed = sorted(tensors.keys() - placed.keys())
    problems = []
    if lost:
        problems.append(f"names tensors that are not in the file it gives for them: {listed(lost)}")
    if unnamed:
        problems.append(f"does not name tensors that the shards hold: {listed(unnamed)}")
    if problems:
        raise _broken(index, " and ".join(problems))


def _broken(index: Path, what: str) -> MalformedFile:
    return MalformedFile(
        f"{shown(str(index))} {what}. The index and the shards do not belong together; fetch them again."
    )
