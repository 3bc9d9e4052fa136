"""Turns what a user calls a model into a local folder or file: a path, the packaged nano, or a hub name."""

import os
from pathlib import Path

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.gguf.finding import gguf_in
from minicpm.checkpoint.hub.names import HubName, parse_name
from minicpm.checkpoint.hub.pull import find_pulled, pull
from minicpm.checkpoint.progress import Progress
from minicpm.errors import BadInput, NotACheckpoint

NANO = "nano"


def resolve(
    name: str, *, revision: str | None = None, offline: bool = False, progress: Progress | None = None
) -> Path:
    """The local folder of `name`, or the GGUF file that it names.

    "nano" is always the model inside the package (write "./nano" for a folder); what exists wins over a hub
    name; a hub name already in the cache is used as it is, without the network, else it is pulled.
    """
    if name == NANO:
        return _packaged(NANO)
    if os.path.isdir(name) or gguf_in(Path(name)) is not None:
        return Path(name)
    hub_name = _hub_name(name)
    return find_pulled(hub_name, revision) or pull(
        hub_name, revision=revision, offline=offline, progress=progress
    )


def _packaged(name: str) -> Path:
    folder = Path(__file__).resolve().parent.parent / "assets" / name
    if not folder.is_dir():
        raise NotACheckpoint(
            f"This installation does not carry the model {name!r}. Install the package again, or name "
            "another model; `minicpm models` lists them."
        )
    return folder


def _hub_name(name: str) -> HubName:
    if _is_path(name):
        what = "is a file, not a folder" if os.path.isfile(name) else "does not exist"
        raise NotACheckpoint(
            f"{shown(name)} {what}. Give the folder that holds config.json, a .gguf file, or a hub name such "
            "as openbmb/MiniCPM4-0.5B."
        )
    try:
        return parse_name(name)
    except BadInput as error:
        raise BadInput(
            f"There is no folder {shown(repr(name))} here, and it is not a hub name ORG/NAME (such as "
            "openbmb/MiniCPM4-0.5B) or ms:ORG/NAME either. Try `minicpm models` for models to pull, or "
            f"{NANO!r} for the one inside the package."
        ) from error


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or os.path.sep * 2 in name or os.path.exists(name)
