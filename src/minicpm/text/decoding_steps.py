"""What a tokenizer's decoder does to tokens and to the joined text, read from its description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minicpm.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORD_MARKER = "\u2581"
_KNOWN = {"ByteLevel", "ByteFallback", "Metaspace", "Replace", "Fuse", "Strip"}


@dataclass(frozen=True, slots=True)
class DecodingSteps:
    """Replacements inside each token, how bytes are spelled, and replacements in the joined text."""

    in_tokens: tuple[tuple[str, str], ...]
    in_text: tuple[tuple[str, str], ...]
    byte_level: bool
    byte_fallback: bool


def read_steps(backend: Tokenizer) -> DecodingSteps:
    """Raises TokenizerError for a decoder that no MiniCPM tokenizer has."""
    steps = list(_steps(json.loads(backend.decoder.__getstate__()))) if backend.decoder else []
    kinds = [step["type"] for step in steps]
    spelled = {"ByteLevel", "Metaspace", "Replace"} & set(kinds)
    if not spelled or not _KNOWN.issuperset(kinds):
        raise TokenizerError(
            f"The tokenizer decodes by {kinds or 'nothing'}, and only byte-level and SentencePiece-like "
            "decoders are known. Use the tokenizer that was published with the model."
        )
    joint = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    return DecodingSteps(
        in_tokens=tuple(_replacements(steps[:joint])),
        in_text=tuple(_replacements(steps[joint:])),
        byte_level="ByteLevel" in kinds,
        byte_fallback="ByteFallback" in kinds,
    )


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        for inner in decoder["decoders"]:
            yield from _steps(inner)
    else:
        yield decoder


def _replacements(steps: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for step in steps:
        if step["type"] == "Metaspace":
            yield step.get("replacement", WORD_MARKER), " "
        elif step["type"] == "Replace":
            pattern = step["pattern"].get("String")
            if not pattern:
                raise TokenizerError(
                    f"The tokenizer's decoder replaces by the pattern {step['pattern']}, and only plain "
                    "text can be replaced while text streams. Use the tokenizer published with the model."
                )
            yield pattern, step["content"]
