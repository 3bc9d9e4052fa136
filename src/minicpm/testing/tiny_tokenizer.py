"""A toy tokenizer in each published layout: byte fallback, a few merges, the family's control tokens."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

_WORDS = ("he", "ll", "llo", "hello", "th", "the", "你", "好", "你好", "1", "2", "3")
_CHATML = (
    "<|im_end|>",
    "<|im_start|>",
    "<|tool_call|>",
    "<|execute_start|>",
    "<|execute_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
)
_MINICPM5 = (
    "<think>",
    "</think>",
    "<tool_response>",
    "</tool_response>",
    "<function",
    "</function>",
    "<param",
)


@dataclass(frozen=True, slots=True)
class TinyTokenizer:
    """A tokenizer with its ids: `bos`, `eos` (several where the family has several) and `size`."""

    tokenizer: Tokenizer
    bos: int
    eos: tuple[int, ...]
    size: int

    def write(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        spell = self.tokenizer.id_to_token
        config = {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": spell(self.bos),
            "eos_token": spell(self.eos[0]),
            "unk_token": "<unk>",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def tiny_tokenizer(family: str) -> TinyTokenizer:
    """The toy tokenizer of a family of `minicpm.models.registry`."""
    if family == "minicpm5":
        return _build(["<s>", "</s>", "<unk>", *_MINICPM5], ["<|im_start|>", "<|im_end|>"], "<|im_end|>")
    if family in ("minicpm", "minicpm-llama", "minicpm-embedding", "minicpm-reranker"):
        return _build(["<unk>", "<s>", "</s>"], [], None)
    if family == "minicpm-v":
        return _build(["<unk>", "<s>", "</s>", "<image>", "</image>"], [], None)
    if family == "omnilmm":
        return _build(["<unk>", "<s>", "</s>"], ["<im_patch>", "<im_start>", "<im_end>"], None)
    return _build(["<unk>", "<s>", "</s>"], list(_CHATML), "<|im_end|>")


def _build(first: list[str], last: list[str], turn_end: str | None) -> TinyTokenizer:
    pieces = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n"]
    letters = sorted({letter for word in _WORDS for letter in word} - set(pieces))
    merges = _merges([*pieces, *letters])
    vocab = {piece: i for i, piece in enumerate([*pieces, *letters, *merges])}
    vocab |= {piece: len(vocab) + i for i, piece in enumerate(last)}
    tokenizer = Tokenizer(
        BPE(vocab, list(merges.values()), byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False) for piece in (*first, *last)]
    )
    eos = [vocab["</s>"]] + ([vocab[turn_end]] if turn_end else [])
    return TinyTokenizer(tokenizer, vocab["<s>"], tuple(eos), len(vocab))


def _merges(have: list[str]) -> dict[str, tuple[str, str]]:
    known, merges = set(have), {}
    for word in sorted(_WORDS, key=len):
        for cut in range(1, len(word)):
            left, right = word[:cut], word[cut:]
            if word not in known and left in known and right in known:
                merges[word] = (left, right)
                known.add(word)
    return merges
