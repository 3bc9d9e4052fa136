"""The small files of a model that came as one GGUF file, in a folder of their own within the cache."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from minicpm.checkpoint.atomic import new_folder
from minicpm.checkpoint.files import readable
from minicpm.checkpoint.folder import CONFIG, GENERATION
from minicpm.checkpoint.gguf.reading import GgufFile
from minicpm.checkpoint.gguf.sampling import generation_config
from minicpm.checkpoint.gguf.tokenizer_in import tokenizer_files
from minicpm.checkpoint.hub.home import cache_home, writing
from minicpm.checkpoint.writing import write_json

_FORMAT = 1
"""Of what is made here from metadata."""
_LIST = "made-from-gguf.json"


def companion_folder(file: GgufFile, raw: Mapping[str, Any]) -> Path:
    """The folder with config.json, the tokenizer, the template and generation_config.json of a file.

    It is named after the sha256 of the file's header, and made when it is not there or not whole. Raises
    CacheNotWritable, DiskFull, and as `tokenizer_files`.
    """
    folder = cache_home() / "gguf" / f"{header_digest(file)}-{_FORMAT}"
    if not _is_whole(folder):
        texts = tokenizer_files(file.metadata, raw["vocab_size"])
        with writing(folder), new_folder(folder, overwrite=True) as beside:
            _write(beside, texts, {CONFIG: raw, GENERATION: generation_config(file.metadata)})
    return folder


def header_digest(file: GgufFile) -> str:
    """sha256 of all bytes before the first tensor, in lowercase hexadecimal."""
    end = min((tensor.offset for tensor in file.tensors.values()), default=0)
    with readable(file.path), file.path.open("rb") as opened:
        return sha256(opened.read(end)).hexdigest()


def _write(folder: Path, texts: Mapping[str, str], objects: Mapping[str, Mapping[str, Any]]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, value in objects.items():
        write_json(folder / name, value)
    sizes = {entry.name: entry.stat().st_size for entry in sorted(folder.iterdir())}
    write_json(folder / _LIST, sizes)


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _LIST).read_bytes())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
