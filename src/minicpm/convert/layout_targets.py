"""What each layout of other programs can say exactly of a matrix in codes, and how it says it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Protocol

import torch
from torch import Tensor

from minicpm.checkpoint.layouts import awq, gptq, mlx
from minicpm.checkpoint.layouts.words import WORD_BITS
from minicpm.checkpoint.reading import NAMES
from minicpm.checkpoint.writing import TensorSpec
from minicpm.ops.quant_tensor import QuantTensor

Said = Mapping[str, Any]
_ROW = -1  # what other programs call a group of a whole row
_SMALLEST_GROUP = 32  # that their kernels know


@dataclass(frozen=True, slots=True)
class Grid:
    """Of a matrix [O, I]: bits, inputs per scale, the scales' dtype, whether symmetric, its least zero."""

    shape: tuple[int, int]
    bits: int
    group: int
    dtype: str
    symmetric: bool
    least_zero: int

    @classmethod
    def of(cls, weight: QuantTensor) -> "Grid":
        """That of a matrix."""
        scheme = weight.scheme
        zero = 2 ** (scheme.bits - 1) if weight.zeros is None else int(weight.zeros.min())
        dtype = NAMES[weight.scales.dtype]
        return cls(weight.shape, scheme.bits, scheme.group, dtype, scheme.symmetric, zero)


class Target(Protocol):
    """A layout to write."""

    name: str
    """What its option is called."""
    everything: bool
    """Whether embeddings and heads may be in codes too; else they are written plain."""

    def why_not(self, weight: QuantTensor) -> str | None:
        """Why the layout cannot say this matrix exactly; None when it can."""
        ...

    def together(self, grids: Mapping[str, Grid]) -> Mapping[str, str]:
        """Why modules cannot be written beside the others, by their names."""
        ...

    def specs(self, module: str, grids: Mapping[str, Grid]) -> Sequence[TensorSpec]:
        """Names, dtypes and shapes of what `tensors` gives, in its order."""
        ...

    def tensors(
        self, module: str, weight: QuantTensor, grids: Mapping[str, Grid]
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a module."""
        ...

    def config(self, grids: Mapping[str, Grid], plain: Sequence[str]) -> Said:
        """The keys of config.json that say it; `plain` are projections that are not in codes."""
        ...


class GptqTarget:
    """GPTQ of version 1, or 2 where a zero is 0, which version 1 cannot say."""

    name, everything = "gptq", False

    def why_not(self, weight: QuantTensor) -> str | None:
        """Bits, zeros, and sizes that fill words."""
        outputs, inputs = weight.shape
        bits = weight.scheme.bits
        if bits not in gptq.BITS:
            return f"{bits} bits, where GPTQ has {', '.join(map(str, gptq.BITS))}"
        if outputs * bits % WORD_BITS or inputs * bits % WORD_BITS:
            return f"{outputs} x {inputs} codes of {bits} bits do not fill words of {WORD_BITS}"
        return _no_whole_zeros(weight)

    def together(self, grids: Mapping[str, Grid]) -> Mapping[str, str]:
        """One number of bits, and one size of groups that divides all."""
        return _mixed(grids)

    def specs(self, module: str, grids: Mapping[str, Grid]) -> Sequence[TensorSpec]:
        """As `tensors` gives them."""
        grid = grids[module]
        (outputs, inputs), bits = grid.shape, grid.bits
        groups = inputs // _shared(grids, inputs)
        return _specs(
            module,
            qweight=("I32", (inputs * bits // WORD_BITS, outputs)),
            scales=(grid.dtype, (groups, outputs)),
            qzeros=("I32", (groups, outputs * bits // WORD_BITS)),
            g_idx=("I32", (inputs,)),
        )

    def tensors(
        self, module: str, weight: QuantTensor, grids: Mapping[str, Grid]
    ) -> Iterator[tuple[str, Tensor]]:
        """qweight, scales, qzeros and g_idx."""
        shared = _in_groups(_with_whole_zeros(weight), _shared(grids, weight.shape[1]))
        held = gptq.pack(shared, missing=self._missing(grids))
        yield from ((f"{module}.{part}", tensor) for part, tensor in held._asdict().items())

    def config(self, grids: Mapping[str, Grid], plain: Sequence[str]) -> Said:
        """As GPTQModel writes it, and CPM.cu's converter asks for it."""
        grid = next(iter(grids.values()))
        said = {
            "quant_method": "gptq",
            "bits": grid.bits,
            "group_size": _said_group(grids),
            "sym": all(grid.symmetric for grid in grids.values()),
            "desc_act": False,
            "static_groups": True,
            "lm_head": False,
            "checkpoint_format": "gptq" if self._missing(grids) == gptq.V1 else "gptq_v2",
        }
        skipped: dict[str, Said] = {f"-:^{re.escape(name)}$": {} for name in plain}
        return {"quantization_config": said | ({"dynamic": skipped} if skipped else {})}

    def _missing(self, grids: Mapping[str, Grid]) -> int:
        return gptq.V1 if all(grid.least_zero > 0 for grid in grids.values()) else gptq.V2


class AwqTarget:
    """AutoAWQ's gemm."""

    name, everything = "awq", False

    def why_not(self, weight: QuantTensor) -> str | None:
        """4 bits, zeros, and outputs that fill words."""
        if weight.scheme.bits != awq.BITS:
            return f"{weight.scheme.bits} bits, where AWQ has {awq.BITS}"
        if weight.shape[0] % len(awq.ORDER):
            return f"{weight.shape[0]} outputs are no multiple of {len(awq.ORDER)}"
        return _no_whole_zeros(weight)

    def together(self, grids: Mapping[str, Grid]) -> Mapping[str, str]:
        """One size of groups that divides all."""
        return _mixed(grids)

    def specs(self, module: str, grids: Mapping[str, Grid]) -> Sequence[TensorSpec]:
        """As `tensors` gives them."""
        grid = grids[module]
        outputs, inputs = grid.shape
        groups = inputs // _shared(grids, inputs)
        return _specs(
            module,
            qweight=("I32", (inputs, outputs // len(awq.ORDER))),
            scales=(grid.dtype, (groups, outputs)),
            qzeros=("I32", (groups, outputs // len(awq.ORDER))),
        )

    def tensors(
        self, module: str, weight: QuantTensor, grids: Mapping[str, Grid]
    ) -> Iterator[tuple[str, Tensor]]:
        """qweight, scales and qzeros."""
        held = awq.pack(_in_groups(_with_whole_zeros(weight), _shared(grids, weight.shape[1])))
        yield from ((f"{module}.{part}", tensor) for part, tensor in held._asdict().items())

    def config(self, grids: Mapping[str, Grid], plain: Sequence[str]) -> Said:
        """As AutoAWQ writes it."""
        return {
            "quantization_config": {
                "quant_method": "awq",
                "bits": awq.BITS,
                "group_size": _said_group(grids),
                "zero_point": True,
                "version": "gemm",
                "modules_to_not_convert": [*plain] or None,
            }
        }


class MlxTarget:
    """MLX's affine groups, of modules that differ said one by one."""

    name, everything = "mlx", True

    def why_not(self, weight: QuantTensor) -> str | None:
        """Bits, groups that MLX has, and offsets that are numbers of the scales' dtype."""
        bits, group = weight.scheme.bits, weight.scheme.group
        if bits not in mlx.HELD_BITS:
            return f"{bits} bits, where MLX has {', '.join(map(str, mlx.HELD_BITS))}"
        if group % mlx.GROUPS[-1]:
            return f"groups of {group}, which 32, 64 and 128 do not divide"
        if weight.offsets is None and mlx.exact_offsets(weight) is None:
            return f"zero times scale is rounded in {str(weight.scales.dtype).removeprefix('torch.')}"
        return None

    def together(self, grids: Mapping[str, Grid]) -> Mapping[str, str]:
        """Modules may differ."""
        return {}

    def specs(self, module: str, grids: Mapping[str, Grid]) -> Sequence[TensorSpec]:
        """As `tensors` gives them."""
        grid = grids[module]
        outputs, inputs = grid.shape
        grouped = (grid.dtype, (outputs, inputs // _mlx_group(grid.group)))
        words = ("U32", (outputs, inputs * grid.bits // WORD_BITS))
        return _specs(module, weight=words, scales=grouped, biases=grouped)

    def tensors(
        self, module: str, weight: QuantTensor, grids: Mapping[str, Grid]
    ) -> Iterator[tuple[str, Tensor]]:
        """weight, scales and biases."""
        held = mlx.pack(_in_groups(weight, _mlx_group(weight.scheme.group)))
        yield from ((f"{module}.{part}", tensor) for part, tensor in held._asdict().items())

    def config(self, grids: Mapping[str, Grid], plain: Sequence[str]) -> Said:
        """As mlx-lm writes it: twice, with modules that differ from the most frequent."""
        said = {name: {"group_size": _mlx_group(g.group), "bits": g.bits} for name, g in grids.items()}
        pairs = Counter((one["group_size"], one["bits"]) for one in said.values())
        group, bits = pairs.most_common(1)[0][0]
        default = {"group_size": group, "bits": bits}
        settings = {
            **default,
            "mode": "affine",
            **{name: one for name, one in said.items() if one != default},
        }
        return {"quantization": settings, "quantization_config": settings}


def _mlx_group(group: int) -> int:
    return next(size for size in mlx.GROUPS if group % size == 0)


def _shared(grids: Mapping[str, Grid], inputs: int) -> int:
    """Inputs per scale that suit all matrices, of one with so many inputs."""
    group = _said_group(grids)
    return inputs if group == _ROW else group


def _said_group(grids: Mapping[str, Grid]) -> int:
    if all(grid.group == grid.shape[1] for grid in grids.values()):
        return _ROW
    return gcd(*(grid.group for grid in grids.values()))


def _in_groups(weight: QuantTensor, group: int) -> QuantTensor:
    """The same matrix in smaller groups, which divide its own."""
    times = weight.scheme.group // group

    def spread(part: Tensor | None) -> Tensor | None:
        return part if part is None or times == 1 else part.repeat_interleave(times, dim=1)

    scales = spread(weight.scales)
    assert scales is not None, "a matrix in codes has scales"
    scheme = replace(weight.scheme, group=group)
    return replace(
        weight, scales=scales, zeros=spread(weight.zeros), offsets=spread(weight.offsets), scheme=scheme
    )


def _no_whole_zeros(weight: QuantTensor) -> str | None:
    if weight.offsets is not None:
        return "offsets that are no zeros"
    if weight.zeros is None:
        return None
    zeros = weight.zeros.float()
    whole = torch.equal(zeros, zeros.round()) and float(zeros.min()) >= 0
    fits = float(zeros.max()) < 2**weight.scheme.bits
    return None if whole and fits else f"zeros that are no codes of {weight.scheme.bits} bits"


def _with_whole_zeros(weight: QuantTensor) -> QuantTensor:
    return weight if weight.zeros is None else replace(weight, zeros=weight.zeros.to(torch.uint8))


def _mixed(grids: Mapping[str, Grid]) -> dict[str, str]:
    """Those of other bits than most, and of groups that share too small a size with the others."""
    usual = Counter(grid.bits for grid in grids.values()).most_common(1)[0][0]
    other = {name: f"{g.bits} bits, where most have {usual}" for name, g in grids.items() if g.bits != usual}
    if 0 < (group := _said_group(grids)) < _SMALLEST_GROUP:
        odd = {name: g.group for name, g in grids.items() if g.group % _SMALLEST_GROUP}
        other |= {name: f"groups of {own}, which share {group} with the others" for name, own in odd.items()}
    return other


def _specs(module: str, **parts: tuple[str, tuple[int, ...]]) -> list[TensorSpec]:
    return [TensorSpec(f"{module}.{part}", dtype, shape) for part, (dtype, shape) in parts.items()]
