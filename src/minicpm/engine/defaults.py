"""How a checkpoint wants to be sampled when the caller does not say, and which tokens end its text."""

from collections.abc import Mapping
from typing import Any

from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadConfig, BadParameter
from minicpm.text.chat import Thinking

_SAMPLED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

# The model cards' settings, for checkpoints whose generation_config.json says nothing.
_FAMILIES: Mapping[str, Mapping[str, float]] = {
    "minicpm": {"temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.02},
    "omnilmm": {"temperature": 0.6, "top_p": 0.9, "top_k": 30, "repetition_penalty": 1.1},
    "minicpm-v": {"temperature": 0.7, "top_p": 0.8, "top_k": 100, "repetition_penalty": 1.05},
    "minicpm-128k": {"temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.02},
    "minicpm-llama": {"temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.02},
    "minicpm3": {"temperature": 0.7, "top_p": 0.7},
    "minicpm4": {"temperature": 0.7, "top_p": 0.7},
    "minicpm4.1": {"temperature": 0.9, "top_p": 0.95},
    # Published with do_sample alone, which means transformers' own values.
    "minicpm-sala": {"temperature": 1.0, "top_k": 50},
    "minicpm5": {"temperature": 0.9, "top_p": 0.95},
}
_WITHOUT_THINKING: Mapping[str, Mapping[str, float]] = {"minicpm5": {"temperature": 0.7}}


def sampling_defaults(
    generation: Mapping[str, Any], family: str, *, thinking: Thinking = "auto"
) -> dict[str, Any]:
    """SamplingParams fields from generation_config.json, else from the family's model cards.

    Raises BadConfig when the file's own values are out of range.
    """
    if generation.get("do_sample") is False:
        return {"temperature": 0.0}
    stated = {name: generation[name] for name in _SAMPLED if generation.get(name) is not None}
    if not stated:
        quiet = _WITHOUT_THINKING.get(family, {}) if thinking == "off" else {}
        return {**_FAMILIES.get(family, {}), **quiet}
    try:
        SamplingParams(**stated)
    except BadParameter as error:
        raise BadConfig(f"generation_config.json cannot be used: {error}") from error
    return stated


def end_ids(generation: Mapping[str, Any]) -> frozenset[int]:
    """Every end token that generation_config.json names, as a number or a list."""
    named = generation.get("eos_token_id")
    return frozenset(i for i in (named if isinstance(named, list) else [named]) if isinstance(i, int))
