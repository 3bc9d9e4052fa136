"""What a model is called in the files that are made of it."""

from pathlib import PurePath

from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.gguf.finding import ENDING
from minicpm.checkpoint.hub.manifest import read_manifest

# In UTF-8 at most four times as many bytes, which leaves room for endings within the 255 of a file name.
_LONGEST = 50


def name_of(source: Checkpoint) -> str:
    """By its hub, by the GGUF file that it is in, or by its folder; fit for a file name."""
    manifest = read_manifest(source.path)
    if manifest is not None:
        return fit(PurePath(manifest.repo).name)
    stated = source.raw_config.get("_name_or_path")
    if any(file.suffix == ENDING for file in source.files) and isinstance(stated, str):
        return fit(PurePath(stated).name)
    return fit(source.path.resolve().name)


def fit(name: str) -> str:
    """Letters, digits and some signs of a name, the others replaced."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return kept.strip("-.")[:_LONGEST] or "model"
