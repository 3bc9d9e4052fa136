"""Finds matrices that are held in codes, from names, shapes and config alone; torch is not needed.

What the tensors are decides: a repository whose config.json names another layout than its tensors have is
read by its tensors.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.layouts import awq_source, gptq_source, marlin_source, mlx_source, own_source
from minicpm.checkpoint.layouts.settings import Settings, read_settings
from minicpm.checkpoint.layouts.source import LayoutSource, Parts, Unfit
from minicpm.errors import MalformedFile

_MARKS = {
    "qweight": ("qweight", "scales", "qzeros", "g_idx"),
    "B": ("B", "s", "workspace"),
    "codes": ("codes", "scales", "zeros", "offsets"),
    "weight": ("weight", "scales", "biases"),
}
"""By the last word of the tensor that gives a layout away: those that belong to it. MLX's weight is U32."""
_SHOWN = 8


class Recognised(NamedTuple):
    """Plain tensors, and matrices in codes by the name of the weight they stand for."""

    tensors: dict[str, TensorInfo]
    packed: dict[str, LayoutSource]


def recognise(tensors: Mapping[str, TensorInfo], raw: Mapping[str, Any], folder: Path) -> Recognised:
    """Tell plain tensors from those that make matrices in codes.

    Raises UnknownFormat for a method that is not read, BadConfig for settings that are not sound, and
    MalformedFile, with every matrix, where tensors do not fit each other.
    """
    settings = read_settings(raw)
    modules, plain = _modules(tensors)
    packed: dict[str, LayoutSource] = {}
    problems: list[str] = []
    for module, parts in modules.items():
        try:
            found = _find(module, parts, settings, raw)
            _refuse_twice(found, packed, plain)
        except Unfit as error:
            problems.append(f"{shown(module, 120)}: {error}")
        else:
            packed |= found
    if problems:
        raise _malformed(folder, problems, len(modules))
    return Recognised(plain, packed)


def _modules(tensors: Mapping[str, TensorInfo]) -> tuple[dict[str, Parts], dict[str, TensorInfo]]:
    """The tensors of modules that have a mark, by their last word, and all others."""
    ends: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, info in tensors.items():
        module, _, end = name.rpartition(".")
        ends[module][end] = info
    modules = {m: _own(parts, mark) for m, parts in ends.items() if (mark := _mark(parts)) is not None}
    taken = {f"{module}.{end}" if module else end for module, parts in modules.items() for end in parts}
    return modules, {name: info for name, info in tensors.items() if name not in taken}


def _mark(parts: Parts) -> str | None:
    for mark in _MARKS:
        if mark in parts and (mark != "weight" or parts[mark].dtype == "U32"):
            return mark
    return None


def _own(parts: Parts, mark: str) -> Parts:
    return {end: info for end, info in parts.items() if end in _MARKS[mark]}


def _find(module: str, parts: Parts, settings: Settings, raw: Mapping[str, Any]) -> dict[str, LayoutSource]:
    if "codes" in parts:
        return own_source.find(module, parts, settings)
    if "weight" in parts:
        return mlx_source.find(module, parts, settings)
    if "B" in parts:
        return marlin_source.find(module, parts, settings, raw)
    if "scales" not in parts:
        raise Unfit("scales is missing")
    return _find_words(module, parts, settings, raw)


def _find_words(
    module: str, parts: Parts, settings: Settings, raw: Mapping[str, Any]
) -> dict[str, LayoutSource]:
    """GPTQ, AWQ and Marlin all say qweight and scales; how wide these are tells them apart."""
    widths = [parts[end].shape[-1:] for end in ("qweight", "scales")]
    words, outputs = (width[0] if width else 0 for width in widths)
    if words and words == outputs:
        return gptq_source.find(module, parts, settings)
    if words and words == 2 * outputs:
        return marlin_source.find(module, parts, settings, raw)
    if words and 8 * words == outputs:
        return awq_source.find(module, parts, settings)
    raise Unfit(
        f"qweight {list(parts['qweight'].shape)} with scales {list(parts['scales'].shape)} is neither GPTQ, "
        "AutoAWQ nor Marlin"
    )


def _refuse_twice(
    found: Mapping[str, LayoutSource], packed: Mapping[str, object], plain: Mapping[str, object]
) -> None:
    if twice := [name for name in found if name in packed or name in plain]:
        raise Unfit(f"{', '.join(shown(name, 120) for name in twice)} is there in another form as well")


def _malformed(folder: Path, problems: list[str], count: int) -> MalformedFile:
    rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return MalformedFile(
        f"{len(problems)} of {count} quantized matrices in {shown(str(folder))} cannot be read from their "
        f"tensors. {'; '.join(problems[:_SHOWN])}{rest}. Nothing was loaded; fetch the checkpoint again, or "
        "take another version of the model."
    )
