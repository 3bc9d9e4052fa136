"""Finds the GGUF file that a path means, without opening it."""

import os
from pathlib import Path

from minicpm.checkpoint.files import file_names, inside, listed, shown
from minicpm.errors import NotACheckpoint

ENDING = ".gguf"
_OWN_WEIGHTS = (".safetensors", ".safetensors.index.json")


def gguf_in(path: Path) -> Path | None:
    """The GGUF file that `path` is, or that is the only one with weights in the folder `path`.

    None for everything else. Raises NotACheckpoint for a folder of several.
    """
    if os.path.isfile(path):  # unlike Path's own, it takes any name
        return path if path.name.lower().endswith(ENDING) else None
    names = file_names(path) if os.path.isdir(path) else []
    found = [name for name in names if name.lower().endswith(ENDING)]
    if not found or any(name.endswith(_OWN_WEIGHTS) for name in names):
        return None
    if len(found) > 1:
        raise NotACheckpoint(
            f"{shown(str(path))} holds {len(found)} GGUF files: {listed(found)}. Each is a model of its own; "
            "give the path of one of them."
        )
    return inside(path, found[0])
