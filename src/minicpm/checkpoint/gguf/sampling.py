"""How answers are drawn: generation_config.json and the keys that llama.cpp has for the same."""

from collections.abc import Mapping
from typing import Any

from minicpm.checkpoint.gguf.metadata import neat
from minicpm.checkpoint.gguf.values import Typed, Value, f32, i32

_PREFIX = "general.sampling."
_TEMPERATURE = "temp"
_NUMBERS = {"top_p": "top_p", "min_p": "min_p", "repetition_penalty": "penalty_repeat"}


def sampling_metadata(generation: Mapping[str, Any]) -> dict[str, Typed]:
    """The keys for a generation_config.json; a greedy one has a temperature of 0."""
    values = {gguf: f32(number) for hf, gguf in _NUMBERS.items() if (number := _number(generation, hf))}
    if generation.get("do_sample") is False:
        values[_TEMPERATURE] = f32(0.0)
    elif (temperature := _number(generation, "temperature")) is not None:
        values[_TEMPERATURE] = f32(temperature)
    if type(top_k := generation.get("top_k")) is int and 0 <= top_k < 2**31:
        values["top_k"] = i32(top_k)
    return {_PREFIX + key: value for key, value in values.items()}


def generation_config(metadata: Mapping[str, Value]) -> dict[str, Any]:
    """A generation_config.json that says the same; empty where the file says nothing."""
    found = {hf: metadata.get(_PREFIX + gguf) for hf, gguf in _NUMBERS.items()}
    raw: dict[str, Any] = {hf: neat(value) for hf, value in found.items() if isinstance(value, float)}
    temperature, top_k = metadata.get(_PREFIX + _TEMPERATURE), metadata.get(f"{_PREFIX}top_k")
    if type(top_k) is int:
        raw["top_k"] = top_k
    if isinstance(temperature, float):
        raw |= {"do_sample": True, "temperature": neat(temperature)} if temperature else {"do_sample": False}
    return raw


def _number(raw: Mapping[str, Any], key: str) -> float | None:
    value = raw.get(key)
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if sound else None  # type: ignore[arg-type]
