"""Whether a model is what its name claims: words of the name against what its files hold.

A name decides nothing anywhere else; here it is a claim to be checked.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minicpm.cli.checkup import Finding
from minicpm.cli.units import amount
from minicpm.config import ModelConfig, parameter_count

if TYPE_CHECKING:
    from minicpm.checkpoint import Checkpoint
    from minicpm.checkpoint.packed_source import PackedSource

_ANOTHER = "Take the files from the repository of that name, or give the folder the name of what it holds."
_METHODS = {"gptq": "gptq", "awq": "awq", "marlin": "marlin", "mlx": "mlx"}
_BITS = re.compile(r"(?:^|[^a-z0-9])(?:(?:int|w|q)([2-8])(?![0-9])|([2-8])-?bits?(?![a-z]))")
_SIZE = re.compile(r"(?:^|[^a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])")
# Published names count in different ways: without embeddings, or rounded (MiniCPM-2B has 2.72 billion).
_NEAR = 1.6
# What codes may differ from a claim: some matrices have more bits. Bytes count scales as well.
_MORE_CODES, _MORE_BYTES = 0.75, 1.5


def name_of(path: Path) -> str:
    """What a model is called: by its hub, by a Hugging Face cache, or by its own folder or file."""
    from minicpm.checkpoint.hub.manifest import read_manifest

    manifest = read_manifest(path) if path.is_dir() else None
    if manifest is not None:
        return manifest.repo.rpartition("/")[2]
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.stem if path.is_file() else path.resolve().name


def check_name(name: str, checkpoint: "Checkpoint", config: ModelConfig) -> Iterator[Finding]:
    """A finding for every claim in a name."""
    words = name.lower().replace("_", "-")
    for check in (_method, _plain, _bits, _ternary, _llama, _size):
        yield from check(words, checkpoint, config)


Check = Callable[[str, "Checkpoint", ModelConfig], Iterator[Finding]]


def _method(words: str, checkpoint: "Checkpoint", config: ModelConfig) -> Iterator[Finding]:
    found = sorted({source.format.split()[0] for source in checkpoint.packed.values()})
    for word, method in _METHODS.items():
        if word not in words:
            continue
        held = f"in {', '.join(found)}" if found else f"plain {_dtypes(checkpoint)}"
        if found == [method] or (method == "gptq" and found == ["marlin"]):
            yield Finding("name", f"says {word.upper()}, and the weights are {held}")
        else:
            yield Finding("name", f"says {word.upper()}, but the weights are {held}", _ANOTHER)


def _plain(words: str, checkpoint: "Checkpoint", config: ModelConfig) -> Iterator[Finding]:
    if "unquantized" not in words:
        return
    if checkpoint.packed:
        yield Finding(
            "name", f"says unquantized, but {len(checkpoint.packed)} matrices are in codes", _ANOTHER
        )
    else:
        yield Finding("name", f"says unquantized, and the weights are {_dtypes(checkpoint)}")


def _bits(words: str, checkpoint: "Checkpoint", config: ModelConfig) -> Iterator[Finding]:
    claimed = {int(one or other) for one, other in _BITS.findall(words)}
    if not claimed or "unquantized" in words:
        return
    said = " and ".join(f"{bits} bits" for bits in sorted(claimed))
    layers = [source for name, source in checkpoint.packed.items() if "layers." in name]
    if not layers:
        yield Finding("name", f"says {said}, but the weights are plain {_dtypes(checkpoint)}", _ANOTHER)
        return
    found = _bits_of(layers)
    room = _MORE_CODES if all(hasattr(source, "bits") for source in layers) else _MORE_BYTES
    if any(bits - _MORE_CODES <= found <= bits + room for bits in claimed):
        yield Finding("name", f"says {said}, and the layers have codes of {found:.3g} bits")
    else:
        yield Finding("name", f"says {said}, but the layers have codes of {found:.3g} bits", _ANOTHER)


def _bits_of(sources: "list[PackedSource]") -> float:
    """Of codes alone where a layout tells, else all bytes of files counted; the mean over weights."""
    counts = [source.shape[0] * source.shape[1] for source in sources]
    bits = [
        getattr(source, "bits", 8 * source.nbytes / count)
        for source, count in zip(sources, counts, strict=True)
    ]
    return sum(b * count for b, count in zip(bits, counts, strict=True)) / sum(counts)


def _ternary(words: str, checkpoint: "Checkpoint", config: ModelConfig) -> Iterator[Finding]:
    if "bitcpm" not in words and "ternary" not in words:
        return
    packed = [source for name, source in checkpoint.packed.items() if "layers." in name]
    if packed and _bits_of(packed) <= 2 + _MORE_CODES:
        yield Finding("name", "says ternary weights, and they are in codes of 2 bits")
        return
    from minicpm.checkpoint.probing import may_be_ternary
    from minicpm.checkpoint.ternary import packing_of_checkpoint

    packing = packing_of_checkpoint(checkpoint) if may_be_ternary(checkpoint) else None
    if packing is None:
        yield Finding("name", "says ternary weights, but they have other values than -s, 0 and s", _ANOTHER)
    else:
        yield Finding("name", f"says ternary weights, and they are, in groups of {packing.group}")


def _llama(words: str, checkpoint: "Checkpoint", config: ModelConfig) -> Iterator[Finding]:
    if "llama-format" not in words:
        return
    architectures = checkpoint.raw_config.get("architectures") or []
    if "LlamaForCausalLM" in architectures:
        yield Finding("name", "says llama format, and config.json says LlamaForCausalLM")
    else:
        yield Finding("name", f"says llama format, but config.json says {', '.join(architectures)}", _ANOTHER)


def _size(words: str, checkpoint: "Checkpoint", config: ModelConfig) -> Iterator[Finding]:
    claimed = [float(size) for size in _SIZE.findall(words)]
    if len(claimed) != 1:
        return
    count = parameter_count(config)
    if claimed[0] / _NEAR <= count / 1e9 <= claimed[0] * _NEAR:
        yield Finding("name", f"says {claimed[0]:g}B, and there are {amount(count)} parameters")
    else:
        yield Finding("name", f"says {claimed[0]:g}B, but there are {amount(count)} parameters", _ANOTHER)


def _dtypes(checkpoint: "Checkpoint") -> str:
    return ", ".join(sorted({info.dtype for info in checkpoint.tensors.values()}))
