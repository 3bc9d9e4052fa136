"""Examines a model's folder or file: what it is, whether it is whole and what its name claims."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minicpm.cli.checkup import Finding
from minicpm.cli.units import amount, size
from minicpm.config import ModelConfig, parameter_count
from minicpm.errors import LfsPointer, MiniCPMError

if TYPE_CHECKING:
    from minicpm.checkpoint import Checkpoint

_FETCH = "Fetch it again, or take another version of the model."


def examine(name: str) -> Iterator[Finding]:
    """Findings about what `name` means: a folder, a file, "nano" or a pulled model; asks no network.

    Where the files cannot be read nothing more can be said. Raises NotACheckpoint and its kin for a name that
    means nothing here.
    """
    from minicpm.checkpoint import open_checkpoint, resolve

    if os.path.isfile(name) and name.endswith(".safetensors"):
        yield _weight_file(Path(name))
        return
    path = resolve(name, offline=True)
    try:
        checkpoint = open_checkpoint(path)
    except MiniCPMError as error:
        pull = "Run `git lfs pull` in its repository, or `minicpm pull ORG/NAME`."
        yield Finding("files", str(error), pull if isinstance(error, LfsPointer) else _FETCH)
        return
    yield _files(checkpoint)
    yield from _model(path, checkpoint)


def _weight_file(path: Path) -> Finding:
    """A safetensors file by itself."""
    from minicpm.checkpoint.files import refuse_pointers
    from minicpm.checkpoint.header import read_header

    try:
        refuse_pointers([path])
        tensors = read_header(path)
    except MiniCPMError as error:
        return Finding("file", str(error), _FETCH)
    dtypes = ", ".join(sorted({info.dtype for info in tensors.values()}))
    total = size(sum(info.nbytes for info in tensors.values()))
    return Finding(
        "file", f"a whole weight file: {len(tensors)} tensors, {total} as {dtypes}; its folder is the model"
    )


def _files(checkpoint: "Checkpoint") -> Finding:
    count = len(checkpoint.files)
    files = f"{size(checkpoint.total_bytes)} of weights in {count} file{'s' * (count != 1)}"
    return Finding("files", f"whole: {files}, no pointers, nothing cut or missing")


def _model(path: Path, checkpoint: "Checkpoint") -> Iterator[Finding]:
    from minicpm.cli.claims import check_name, name_of
    from minicpm.models.registry import family, parse

    try:
        config = parse(checkpoint.raw_config)
    except MiniCPMError as error:
        yield Finding("config", str(error), "Correct config.json, or take it from the model's repository.")
        return
    count = f"{amount(parameter_count(config))} parameters"
    yield Finding("model", f"{family(config.family).title} ({config.family}), {count}")
    yield _weights(checkpoint)
    yield from _quantization(checkpoint)
    yield _tensors(checkpoint, config)
    yield _tokenizer(checkpoint, config)
    yield from check_name(name_of(path), checkpoint, config)


def _weights(checkpoint: "Checkpoint") -> Finding:
    from minicpm.cli.codes import codes_lines, describe_codes

    codes = describe_codes(checkpoint)
    if codes is None:
        dtypes = ", ".join(sorted({info.dtype for info in checkpoint.tensors.values()}))
        return Finding("weights", f"plain, {dtypes}")
    lines = [f"{what}: {text}".replace("\n", "; ") for what, text in codes_lines(codes)]
    return Finding("weights", "; ".join(lines))


def _quantization(checkpoint: "Checkpoint") -> Iterator[Finding]:
    """Where config.json and the tensors say different things of how weights are held."""
    from minicpm.checkpoint.layouts.settings import read_settings

    said = read_settings(checkpoint.raw_config).method
    found = sorted({source.format.split()[0] for source in checkpoint.packed.values()})
    if said is not None and said not in found and not (said == "gptq" and found == ["marlin"]):
        held = f"in {', '.join(found)}" if found else "plain"
        yield Finding(
            "config",
            f"says that weights are quantized with {said}, and the tensors are {held}",
            "The tensors are believed here; other programs may fail. Correct it in config.json.",
        )


def _tensors(checkpoint: "Checkpoint", config: ModelConfig) -> Finding:
    from minicpm.checkpoint.building import blank
    from minicpm.checkpoint.matching import check_tensors
    from minicpm.checkpoint.naming import with_prefix
    from minicpm.checkpoint.tied_head import check_tied_head

    model = blank(config)
    needed = {name: weight.shape for name, weight in model.named_parameters()}
    try:
        named = with_prefix(checkpoint, needed)
        check_tensors(needed, named, unused=model.unused)
        check_tied_head(named, config, model.unused)
    except MiniCPMError as error:
        return Finding("tensors", str(error), _FETCH)
    return Finding("tensors", f"all {len(needed)} weights that config.json asks for, in its shapes")


def _tokenizer(checkpoint: "Checkpoint", config: ModelConfig) -> Finding:
    from minicpm.checkpoint.tokenizer_fit import check_tokenizer
    from minicpm.text.tokenizer import Tokenizer

    try:
        check_tokenizer(checkpoint.path, config, checkpoint.generation)
        count = Tokenizer.from_folder(checkpoint.path).vocab_size
    except MiniCPMError as error:
        advice = "Take the tokenizer files and config.json from the repository of the weights."
        return Finding("tokenizer", str(error), advice)
    return Finding("tokenizer", f"{count:,} tokens for {config.vocab:,} rows of the embedding")
