"""Reads adapter_config.json: what the adapter is, and every reason why it cannot be used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from minicpm.checkpoint.adapters.targets import (
    ALL_LINEAR,
    Match,
    Targets,
    by_pattern,
    by_suffix,
    everything,
    is_plain,
    nothing,
)
from minicpm.checkpoint.files import listed, shown
from minicpm.config import RawConfig
from minicpm.errors import BadConfig

CONFIG = "adapter_config.json"

# Keys that change nothing in a forward pass of a trained adapter.
_HARMLESS = (
    "auto_mapping", "inference_mode", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "task_type",
)  # fmt: skip
# Ways to begin the training that leave the base weights as published.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """Rank, alpha and targets of a LoRA, with exceptions by name suffix; `base` is the model it was made for.

    `rslora` scales by alpha / sqrt(r) (arXiv 2312.03732) instead of alpha / r, `dora` learns magnitudes
    (arXiv 2402.09353).
    """

    rank: int
    alpha: float
    targets: Targets
    rank_exceptions: Mapping[str, int]
    alpha_exceptions: Mapping[str, float]
    rslora: bool
    dora: bool
    base: str | None
    notes: tuple[str, ...] = ()

    def notes_for(self, model: str) -> tuple[str, ...]:
        """What a user should know who gives this adapter to the model of that name or path."""
        if self.base is None or PurePath(self.base).name.lower() in model.lower():
            return self.notes
        return (*self.notes, f"it says it was made for {shown(self.base)}; its shapes fit this model too.")

    def rank_of(self, name: str) -> int:
        """r of a projection."""
        return next((r for key, r in self.rank_exceptions.items() if by_suffix(key)(name)), self.rank)

    def scale_of(self, name: str) -> float:
        """What multiplies B A of a projection."""
        alpha = next((a for key, a in self.alpha_exceptions.items() if by_suffix(key)(name)), self.alpha)
        rank = self.rank_of(name)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_settings(raw: Mapping[str, Any], where: str) -> AdapterSettings:
    """The settings in a raw adapter_config.json; BadConfig names all that is not supported."""
    reader = RawConfig(raw, where=CONFIG)
    _refuse_others(reader)
    notes: list[str] = []
    settings = AdapterSettings(
        rank=reader.integer("r", 8),
        alpha=reader.number("lora_alpha", 8),
        targets=_targets(reader, raw, notes),
        rank_exceptions=_exceptions(reader, raw, "rank_pattern", int),
        alpha_exceptions=_exceptions(reader, raw, "alpha_pattern", float),
        rslora=reader.boolean("use_rslora", False),
        dora=reader.boolean("use_dora", False),
        base=reader.text("base_model_name_or_path", "") or None,
        notes=tuple(notes),
    )
    problems = [*reader.problems, *_unread(reader, raw)]
    if problems:
        raise BadConfig(
            f"The adapter in {shown(where)} cannot be used: {'; '.join(problems)}. Nothing was loaded; take "
            "an adapter without these, or merge it into its model with the tool that made it."
        )
    return settings


def _refuse_others(reader: RawConfig) -> None:
    if not reader.has("peft_type"):
        reader.problem("peft_type is missing, where LORA is needed")
    reader.expect("peft_type", ("LORA",), "only LoRA adapters are supported")
    reader.expect("bias", ("none",), "adapters that carry biases are not supported")
    reader.expect("lora_bias", (False,), "adapters that carry biases are not supported")
    reader.expect("modules_to_save", ([],), "whole modules beside the low-rank ones are not supported")
    reader.expect("fan_in_fan_out", (False,), "the weights of this family are not transposed")
    reader.expect(
        "init_lora_weights", _PLAIN_STARTS, "it changed the base weights, which must be the published ones"
    )


def _unread(reader: RawConfig, raw: Mapping[str, Any]) -> list[str]:
    """Keys nobody reads, unless they are switched off: PEFT writes one for each variant it knows."""
    reader.ignore(*_HARMLESS)
    unknown = sorted(key for key in reader.unread if raw[key] not in (None, False, "", [], {}))
    return [f"nothing here reads {listed(unknown)}"] if unknown else []


def _targets(reader: RawConfig, raw: Mapping[str, Any], notes: list[str]) -> Targets:
    reader.ignore("target_modules", "exclude_modules", "layers_to_transform")
    reader.expect("layers_pattern", ("layers", ["layers"], []), "the layers of this family are called layers")
    if raw.get("target_modules") in (None, [], ""):
        reader.problem("target_modules is missing, where names of projections are needed")
    chosen = _match(reader, "target_modules", raw.get("target_modules") or [])
    if chosen is None:
        notes.append(
            f"target_modules is a regular expression ({shown(str(raw['target_modules']), 80)}), which is not "
            "run; the projections are those that have tensors in the file."
        )
    excluded = _match(reader, "exclude_modules", raw.get("exclude_modules") or [])
    if excluded is None:
        reader.problem("exclude_modules is a regular expression, which is not run")
    return Targets(chosen, excluded or nothing, _layers(reader, raw.get("layers_to_transform")))


def _match(reader: RawConfig, key: str, value: Any) -> Match | None:
    if value == ALL_LINEAR:
        return everything
    if isinstance(value, str):
        return by_pattern(value)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return by_suffix(*value) if value else nothing
    reader.problem(f"{key} is neither a list of names nor a string")
    return nothing


def _layers(reader: RawConfig, value: Any) -> frozenset[int] | None:
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int and number >= 0 for number in numbers):
        reader.problem("layers_to_transform is neither the number of a layer nor a list of them")
        return None
    return frozenset(numbers)


def _exceptions(reader: RawConfig, raw: Mapping[str, Any], key: str, kind: type) -> dict[str, Any]:
    """Values by the name suffix they are for; only plain suffixes, for regular expressions are not run."""
    reader.ignore(key)
    value = raw.get(key) or {}
    if not isinstance(value, Mapping):
        reader.problem(f"{key} is no object from names to numbers")
        return {}
    wrong = [name for name, number in value.items() if not (is_plain(name) and _positive(number, kind))]
    if wrong:
        reader.problem(f"{key} has entries that are not a plain name with a positive number: {listed(wrong)}")
    return {name: number for name, number in value.items() if name not in wrong}


def _positive(value: Any, kind: type) -> bool:
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < math.inf
