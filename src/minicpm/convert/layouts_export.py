"""Writes a model for programs that read other layouts of safetensors: llama format, GPTQ, AutoAWQ, MLX.

What is in codes stays in the same codes; nothing is rounded here. muP's scales stay in the model, whose
classes apply them, but in llama format.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.layouts.settings import KEYS
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.reading import NAMES
from minicpm.checkpoint.writing import TensorSpec
from minicpm.config import dtype_name
from minicpm.convert.hf_folder import Folder, write_folder
from minicpm.convert.layout_targets import AwqTarget, GptqTarget, Grid, MlxTarget, Target
from minicpm.convert.llama_export import to_llama
from minicpm.convert.needed import Needed, needed_of
from minicpm.convert.outcome import Outcome
from minicpm.errors import BadInput
from minicpm.ops.quant_tensor import QuantTensor, Weight, plain

__all__ = ["to_awq", "to_gptq", "to_llama", "to_mlx"]

_WEIGHT = ".weight"
_METHODS = {
    "gptq": "gptq --bits 4 --group 128",
    "awq": "awq --bits 4 --group 128",
    "mlx": "rtn --bits 4 --group 64",
}


def to_gptq(
    source: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write a quantized model as GPTQ, as transformers, vLLM, SGLang and CPM.cu read it.

    Projections keep their codes; an embedding or head in codes is decoded, since GPTQ has none. With
    `dry_run` matrices are looked at and nothing is written. Raises BadInput, with every module, where the
    layout cannot say a grid exactly, and for a model that holds nothing in codes; DiskFull; WeightMismatch.
    """
    return _export(GptqTarget(), source, target, overwrite=overwrite, progress=progress, dry_run=dry_run)


def to_awq(
    source: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write a quantized model of 4 bits as AutoAWQ's gemm; as `to_gptq` otherwise."""
    return _export(AwqTarget(), source, target, overwrite=overwrite, progress=progress, dry_run=dry_run)


def to_mlx(
    source: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write a quantized model as MLX does, embeddings and heads in codes too; as `to_gptq` otherwise.

    Groups become 128, 64 or 32 inputs; modules of other bits or groups are named in config.json.
    """
    return _export(MlxTarget(), source, target, overwrite=overwrite, progress=progress, dry_run=dry_run)


def _export(
    layout: Target,
    source: Checkpoint,
    target: Path,
    *,
    overwrite: bool,
    progress: Progress | None,
    dry_run: bool,
) -> Outcome:
    needed = needed_of(source)
    work = _Work(layout, needed)
    config = {key: value for key, value in needed.config.raw.items() if key not in KEYS}
    folder = Folder({**config, **layout.config(work.grids, work.plain)}, work.specs(), work.tensors())
    return write_folder(folder, source, target, overwrite=overwrite, progress=progress, dry_run=dry_run)


class _Work:
    """A model whose matrices in codes have been looked at: `grids` of those to be written so, by module."""

    def __init__(self, layout: Target, needed: Needed) -> None:
        """Raises BadInput, naming all, for matrices that the layout cannot say exactly."""
        self._layout, self._needed = layout, needed
        self._dtype = getattr(torch, dtype_name(needed.config.dtype))
        in_codes = [name for name in needed.shapes if name in needed.checkpoint.packed]
        self._kept = [name for name in in_codes if layout.everything or name in needed.projections]
        if not self._kept:
            raise self._refused("it holds no projection in codes")
        self.grids = self._looked_at()
        self.plain = [_module(name) for name in needed.projections if name not in self._kept]

    def specs(self) -> list[TensorSpec]:
        """Of all tensors, in their order."""
        return [spec for name in self._needed.shapes for spec in self._specs(name)]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors, of one weight after the other."""
        for name in self._needed.shapes:
            weight = self._read(name)
            if isinstance(weight, QuantTensor) and _module(name) in self.grids:
                yield from self._layout.tensors(_module(name), weight, self.grids)
            else:
                yield name, plain(weight)

    def _specs(self, name: str) -> Sequence[TensorSpec]:
        if _module(name) in self.grids:
            return self._layout.specs(_module(name), self.grids)
        info = self._needed.checkpoint.tensors.get(name)
        dtype = NAMES[self._dtype] if info is None else info.dtype
        return [TensorSpec(name, dtype, self._needed.shapes[name])]

    def _read(self, name: str) -> Weight:
        packed = self._needed.checkpoint.packed.get(name)
        return self._needed.checkpoint.read(name) if packed is None else packed.read(self._dtype)

    def _looked_at(self) -> dict[str, Grid]:
        grids: dict[str, Grid] = {}
        reasons: dict[str, str] = {}
        for name in self._kept:
            weight = self._read(name)
            if (why := self._why_not(weight)) is not None:
                reasons[_module(name)] = why
            else:
                assert isinstance(weight, QuantTensor), "why_not has looked"
                grids[_module(name)] = Grid.of(weight)
            del weight
        reasons |= self._layout.together(grids) if grids else {}
        if reasons:
            raise self._refused(_all(reasons))
        return grids

    def _why_not(self, weight: Weight) -> str | None:
        if isinstance(weight, QuantTensor):
            return self._layout.why_not(weight)
        return "codes that are in no grid of equal groups"

    def _refused(self, why: str) -> BadInput:
        path, name = shown(str(self._needed.checkpoint.path)), self._layout.name
        return BadInput(
            f"{path} cannot be written as {name} without changing it: {why}. Quantize the original for it "
            f"first, `minicpm quantize MODEL DST --method {_METHODS[name]}`, and convert the result."
        )


def _module(name: str) -> str:
    return name.removesuffix(_WEIGHT)


def _all(reasons: Mapping[str, str]) -> str:
    return listed((f"{module} has {why}" for module, why in sorted(reasons.items())), 8)
