"""Reads a list of token ids, such as the frequent ones that a draft guesses from."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.checkpoint.files import MAX_JSON_BYTES, readable, refuse_pointers, shown
from minicpm.checkpoint.header import read_header
from minicpm.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

_PICKLES = (".pt", ".pth", ".bin")
_INTEGERS = ("I64", "I32", "I16")


def read_ids(path: str | Path) -> "Tensor":
    """The ids [N] int64 in a .json list, in the one tensor of a .safetensors file, or in a pickled list.

    A pickle is opened in a child process, as plain numbers only. Raises BadInput for anything else, and the
    errors of the format.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise BadInput(f"{shown(str(path))} is no file. Give a .json, .safetensors or .pt file of token ids.")
    with readable(path.parent):
        refuse_pointers([path])
        if path.suffix == ".json":
            return _from_json(path)
        if path.suffix == ".safetensors":
            return _from_tensor(path)
        if path.suffix in _PICKLES:
            return _from_pickle(path)
    raise BadInput(f"{shown(str(path))} is none of .json, .safetensors and .pt, so its format is not known.")


def _from_json(path: Path) -> "Tensor":
    import torch

    if path.stat().st_size > MAX_JSON_BYTES:
        raise _no_list(path)
    try:
        value: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _no_list(path) from error
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**31 for item in value):
        raise _no_list(path)
    return torch.tensor(value, dtype=torch.int64)


def _from_tensor(path: Path) -> "Tensor":
    import torch

    from minicpm.checkpoint.reading import read_tensor

    tensors = list(read_header(path).values())
    if len(tensors) != 1 or len(tensors[0].shape) != 1 or tensors[0].dtype not in _INTEGERS:
        raise _no_list(path)
    return read_tensor(tensors[0]).to(torch.int64)


def _from_pickle(path: Path) -> "Tensor":
    from minicpm.checkpoint.bins import rewrite_ids

    with tempfile.TemporaryDirectory(prefix="minicpm-ids-") as folder:
        target = Path(folder).resolve() / "ids.safetensors"
        rewrite_ids(path, target)
        return _from_tensor(target)


def _no_list(path: Path) -> BadInput:
    return BadInput(f"{shown(str(path))} does not hold one list of token ids and nothing else.")
