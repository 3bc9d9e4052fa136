"""Maps a raw config to the family that can read it; unknown ones are refused by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minicpm.config import ModelConfig, RawConfig
from minicpm.errors import UnknownModel
from minicpm.models.families import llama, minicpm, minicpm3, minicpmv, omnilmm, pooled, sala
from minicpm.models.family import Family

_MUP = {"architectures": ("MiniCPMForCausalLM",), "model_types": ("minicpm",), "parse": minicpm.parse}
_MLA = {"architectures": ("MiniCPM3ForCausalLM",), "model_types": ("minicpm3",), "parse": minicpm3.parse}
_EMBEDDING = {"architectures": ("MiniCPMModel",), "model_types": (), "parse": pooled.parse_embedding}
_RERANKER = {
    "architectures": ("MiniCPMForSequenceClassification",),
    "model_types": (),
    "parse": pooled.parse_reranker,
}
_SEEING = {"architectures": ("MiniCPMV",), "model_types": ("minicpmv",), "parse": minicpmv.parse}
_OMNILMM = {"architectures": ("OmniLMMForCausalLM",), "model_types": ("omnilmm",), "parse": omnilmm.parse}
_LLAMA = {"architectures": ("LlamaForCausalLM",), "model_types": ("llama",), "parse": llama.parse}
_SALA = {
    "architectures": ("MiniCPMSALAForCausalLM",),
    "model_types": ("minicpm_sala",),
    "parse": sala.parse,
}

_FAMILIES = (
    Family("minicpm", "MiniCPM 1B, 2B, MoE-8x2B, S-1B", template="minicpm-v1", dialect="none", **_MUP),
    Family("omnilmm", "OmniLMM", template="omnilmm", dialect="none", **_OMNILMM),
    Family("minicpm-128k", "MiniCPM-2B-128k", template="chatml", dialect="none", **_MUP),
    Family("minicpm-v", "MiniCPM-V 1.0", template="minicpm-v1", dialect="none", **_SEEING),
    Family("minicpm3", "MiniCPM3", template="chatml", dialect="py-call", **_MLA),
    Family("minicpm4", "MiniCPM4, BitCPM4", template="chatml", dialect="py-call", **_MUP),
    Family("minicpm4.1", "MiniCPM4.1", template="minicpm4.1", dialect="py-call", **_MUP),
    Family("minicpm-sala", "MiniCPM-SALA", template="chatml", dialect="py-call", **_SALA),
    Family("minicpm-embedding", "MiniCPM-Embedding", template="none", dialect="none", **_EMBEDDING),
    Family("minicpm-reranker", "MiniCPM-Reranker", template="none", dialect="none", **_RERANKER),
    Family("minicpm-llama", "MiniCPM in llama format", template="minicpm-v1", dialect="none", **_LLAMA),
    Family("minicpm5", "MiniCPM5", template="minicpm5", dialect="xml-fn", **_LLAMA),
)


def families() -> list[Family]:
    """Every family, in order of publication."""
    return list(_FAMILIES)


def family(name: str) -> Family:
    """The family of that name; KeyError is a mistake of the caller, not of a user."""
    return {f.name: f for f in _FAMILIES}[name]


def parse(raw: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a raw config.json.

    Raises UnknownModel, BadConfig (all problems) or UnreadConfig (all keys nobody reads).
    """
    reader = RawConfig(raw)
    config = _reader_of(raw)(reader)
    reader.finish()
    return replace(config, raw=dict(raw))


def _reader_of(raw: Mapping[str, Any]) -> Any:
    declared = raw.get("architectures")
    names = [n for n in declared if isinstance(n, str)] if isinstance(declared, list) else []
    for known in _FAMILIES:
        if any(name in known.architectures for name in names):
            return known.parse
    if not names and (by_type := [f for f in _FAMILIES if raw.get("model_type") in f.model_types]):
        return by_type[0].parse
    raise UnknownModel(_unknown_message(names, raw.get("model_type")))


def _unknown_message(names: list[str], model_type: object) -> str:
    architectures = sorted({a for f in _FAMILIES for a in f.architectures})
    return (
        f"No model family here reads architectures {names} with model_type {model_type!r}. "
        f"Known architectures: {', '.join(architectures)}. It is not loaded as something similar, because "
        "that gives wrong answers silently; `minicpm models` lists what is supported."
    )
