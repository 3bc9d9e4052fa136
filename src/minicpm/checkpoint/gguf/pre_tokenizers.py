"""How text is cut before bytes are merged, under the names that llama.cpp has for it (tokenizer.ggml.pre)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_WORDS = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # fmt: skip
_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """Patterns, each applied to what the one before left, or that of GPT-2 when there are none.

    `whole` takes a stretch that is in the vocabulary without merging it; `adds_bos` is what a file that does
    not say means.
    """

    patterns: tuple[str, ...]
    whole: bool
    adds_bos: bool

    @property
    def description(self) -> dict[str, Any]:
        """As tokenizer.json has it."""
        splits = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.patterns
        ]
        alphabet = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": not self.patterns,
        }
        return {"type": "Sequence", "pretokenizers": [*splits, alphabet]} if splits else alphabet


# Patterns as in the tokenizer.json that llama.cpp's name stands for.
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType({
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", _SUFFIXES + _WORDS), whole=True, adds_bos=False),
    "llama-bpe": PreTokenizer(
        (_SUFFIXES + _WORDS.replace(r"\p{N}+|", r"\p{N}{1,3}|", 1),), whole=True, adds_bos=True
    ),
    "gpt-2": PreTokenizer((), whole=False, adds_bos=False),
})  # fmt: skip


def patterns_of(description: Any) -> tuple[str, ...] | None:
    """The patterns of a byte-level pre-tokenizer as tokenizer.json describes it; None for any other kind."""
    steps = description.get("pretokenizers", [description]) if isinstance(description, dict) else []
    *splits, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    patterns = tuple(step.get("pattern", {}).get("Regex", "") for step in splits)
    cut = all(step.get("type") == "Split" and step.get("behavior") == "Isolated" for step in splits)
    return patterns if cut and all(patterns) and last.get("use_regex", True) is not bool(patterns) else None


def name_of(description: Any, *, whole: bool) -> str | None:
    """llama.cpp's name for a byte-level pre-tokenizer; None where it has none."""
    patterns = patterns_of(description)
    return next(
        (name for name, pre in PRE_TOKENIZERS.items() if (pre.patterns, pre.whole) == (patterns, whole)), None
    )
