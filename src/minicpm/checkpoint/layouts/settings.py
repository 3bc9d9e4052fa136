"""What config.json says of quantized weights, without torch: a method, and numbers that tensors must fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from minicpm.checkpoint.files import shown
from minicpm.errors import BadConfig, UnknownFormat

KEYS = ("quantization_config", "quantization")
"""Where published configs say it, the first that is there counts."""
Group = int | Literal["row"]
"""Inputs per scale, or all of them."""

_READ = ("gptq", "awq", "marlin", "minicpm")
_FORMATS = {"gptq": 1, "gptq_v2": 0, "marlin": 0}
"""What a stored zero lacks, by GPTQ's checkpoint_format."""
_PLAIN = (
    "Take the unquantized checkpoint and round it while loading (--weights int8 or int4), or take its GPTQ, "
    "AutoAWQ, MLX or GGUF version"
)
_MOST_BITS = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """How matrices are said to be held; None is not said. `modules` has what differs, by a module's name."""

    method: str | None = None
    bits: int | None = None
    group: Group | None = None
    symmetric: bool | None = None
    ordered_by_activation: bool = False
    missing: int = 1
    mixed: bool = False
    modules: Mapping[str, "Settings"] = field(default_factory=dict)

    def of(self, module: str) -> "Settings":
        """What is said of one module."""
        return self.modules.get(module, self)


def read_settings(raw: Mapping[str, Any]) -> Settings:
    """The settings in a raw config; without any, all is left to the tensors.

    Raises UnknownFormat for a method that is not read, by its name, and BadConfig for values of a wrong kind.
    """
    key = next((key for key in KEYS if raw.get(key) is not None), None)
    if key is None:
        return Settings()
    found = raw[key]
    if not isinstance(found, Mapping):
        raise _bad(key, found, "an object")
    return _read(found)


def _read(found: Mapping[str, Any]) -> Settings:
    method = _text(found, "quant_method")
    if method is None:
        return _read_mlx(found)
    if method not in _READ:
        raise UnknownFormat(
            f"The weights are quantized with {shown(method)!r} (quant_method in config.json), which is not "
            f"read here: {', '.join(_READ)}, MLX and GGUF are. {_PLAIN}."
        )
    return _read_own(found) if method == "minicpm" else _read_words(found, method)


def _read_words(found: Mapping[str, Any], method: str) -> Settings:
    """GPTQ, AWQ and Marlin, whose tensors are words of 32 bits."""
    written, version = _text(found, "checkpoint_format") or "gptq", _text(found, "version") or "gemm"
    if written not in _FORMATS:
        raise UnknownFormat(
            f"The weights are laid out as {shown(written)!r} (checkpoint_format in config.json); "
            f"{', '.join(_FORMATS)} are read. {_PLAIN}."
        )
    if method == "awq" and version != "gemm":
        raise UnknownFormat(
            f"The weights are laid out as AWQ's {shown(version)!r} (version in config.json); gemm is read. "
            f"{_PLAIN}."
        )
    return Settings(
        method=method,
        bits=_whole(found, "bits", "w_bit"),
        group=_group(found, "group_size", "q_group_size"),
        symmetric=_flag(found, "sym"),
        ordered_by_activation=bool(_flag(found, "desc_act")),
        missing=_FORMATS[written],
        mixed=bool(found.get("dynamic")),
    )


def _read_mlx(found: Mapping[str, Any]) -> Settings:
    own = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    return _mlx(found, {name: _mlx(value, {}) for name, value in own.items()})


def _mlx(found: Mapping[str, Any], modules: Mapping[str, Settings]) -> Settings:
    mode = _text(found, "mode") or "affine"
    if mode != "affine":
        raise UnknownFormat(
            f"The weights are quantized with MLX's mode {shown(mode)!r}; affine is read. {_PLAIN}."
        )
    bits, group = _whole(found, "bits"), _group(found, "group_size")
    return Settings(method="mlx", bits=bits, group=group, symmetric=False, modules=modules)


def _read_own(found: Mapping[str, Any]) -> Settings:
    if found.get("format") != 1:
        raise UnknownFormat(
            f"The weights are in our own layout, format {shown(repr(found.get('format')))}, and this version "
            "reads format 1. Use a newer version, or save the model again."
        )
    modules = found.get("modules") or {}
    default = found.get("default") or {}
    if not isinstance(modules, Mapping) or not isinstance(default, Mapping):
        raise _bad("modules", modules, "an object of schemes by module, beside an object default,")
    return _own(default, {name: _own(scheme, {}) for name, scheme in modules.items()})


def _own(scheme: Any, modules: Mapping[str, Settings]) -> Settings:
    if not isinstance(scheme, Mapping):
        raise _bad("modules", scheme, "an object with bits, group and symmetric for each module")
    return Settings(
        method="minicpm",
        bits=_whole(scheme, "bits"),
        group=_group(scheme, "group"),
        symmetric=_flag(scheme, "symmetric"),
        modules=modules,
    )


def _text(found: Mapping[str, Any], key: str) -> str | None:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise _bad(key, value, "a string")
    return value if value is None else value.lower()


def _flag(found: Mapping[str, Any], key: str) -> bool | None:
    value = found.get(key)
    if value is not None and not isinstance(value, bool):
        raise _bad(key, value, "true or false")
    return value


def _whole(found: Mapping[str, Any], *keys: str) -> int | None:
    key = next((key for key in keys if found.get(key) is not None), None)
    if key is None:
        return None
    value = found[key]
    if type(value) is not int or not 1 <= value <= _MOST_BITS:
        raise _bad(key, value, f"an integer from 1 to {_MOST_BITS}")
    return value


def _group(found: Mapping[str, Any], *keys: str) -> Group | None:
    key = next((key for key in keys if found.get(key) is not None), None)
    if key is None:
        return None
    value = found[key]
    if value in (-1, "row"):
        return "row"
    if type(value) is not int or value < 1:
        raise _bad(key, value, "a positive integer, or -1 for whole rows,")
    return value


def _bad(key: str, value: object, wanted: str) -> BadConfig:
    return BadConfig(
        f"What config.json says of quantized weights cannot be used: {key} is {shown(repr(value), 60)}, "
        f"where {wanted} is needed. Correct config.json, or fetch it again."
    )
