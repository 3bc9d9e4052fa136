"""Building nano's tokenizer: a byte-fallback BPE whose pieces make copying and arithmetic easy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from minicpm.checkpoint.atomic import write_file
from minicpm.train.nano.sample import Sample

SPECIAL = (
    *("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    *("<|tool_call_start|>", "<|tool_call_end|>", "<|execute_start|>", "<|execute_end|>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *(f"<|reserved_{n}|>" for n in range(18)),
)
NAMED = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "</s>"}
BYTES = tuple(f"<0x{n:02X}>" for n in range(256))
VOCAB = 6144
CHARACTERS = 2900  # single characters of the alphabet; two thirds of them Chinese
# A word keeps the space before it only in lower case: names and codes then have the same tokens in a request,
# in quotes and in an answer, and Chinese characters never merge, so that copying is the same step everywhere.
# An operator takes the spaces on both sides, which leaves one token between two numbers.
PIECES = r"\n|\d|▁?[-+=×*÷/<>]▁?|▁?\p{Ll}+|\p{Lu}\p{Ll}*|\p{Han}|[^\s\p{L}\p{N}▁]+|▁|."
# The sign that stands for a space may occur in a text of its own; two private characters spell it then, so
# that decoding gives every string back.
ESCAPE, ESCAPED_ESCAPE, ESCAPED_SPACE = "\ue000", "\ue000\ue001", "\ue000\ue002"


def _normalizer() -> normalizers.Normalizer:
    steps = ((ESCAPE, ESCAPED_ESCAPE), ("▁", ESCAPED_SPACE), (" ", "▁"))
    return normalizers.Sequence([normalizers.Replace(old, new) for old, new in steps])


def _decoder() -> decoders.Decoder:
    return decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Replace(ESCAPED_SPACE, "▁"), decoders.Replace(ESCAPED_ESCAPE, ESCAPE),
    ])  # fmt: skip


def _shell(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = _decoder()
    return tokenizer


def _texts(samples: Iterable[Sample]) -> Iterator[str]:
    return (part.text for sample in samples for part in sample.parts if not part.control)


def _alphabet(texts: Iterable[str], size: int) -> list[str]:
    """Printable ASCII and the most frequent others; ties by code, where the trainer's own choice varies."""
    always = [chr(n) for n in range(33, 127)] + ["▁", "\n"]
    seen = Counter(chain.from_iterable(texts))
    others = sorted(seen.keys() - {" ", *always}, key=lambda ch: (-seen[ch], ch))
    return always + others[: size - len(always)]


def build_tokenizer(samples: Iterable[Sample], *, vocab: int = VOCAB) -> Tokenizer:
    """Train on the text parts of `samples`; it has `vocab` ids if the text offers as many pieces.

    Ids: the special tokens, the 256 bytes, then the alphabet and the merged pieces.
    """
    learned = vocab - len(SPECIAL) - len(BYTES)
    texts = list(_texts(samples))
    alphabet = _alphabet(texts, min(CHARACTERS, learned // 2))
    trainee = _shell(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=learned, limit_alphabet=len(alphabet), initial_alphabet=alphabet, max_token_length=16,
        show_progress=False,
    )  # fmt: skip
    trainee.train_from_iterator(texts, trainer)
    trained = json.loads(trainee.to_str())["model"]
    pieces = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    ids = {piece: number for number, piece in enumerate((*SPECIAL, *BYTES, *pieces))}
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = _shell(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return tokenizer


def tokenizer_config(template: str, *, context: int = 2048) -> dict[str, object]:
    """The tokenizer_config.json of the shipped folder."""
    added = {
        str(number): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for number, text in enumerate(SPECIAL)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **NAMED,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "added_tokens_decoder": added,
        "chat_template": template,
    }


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, its config, special_tokens_map.json and chat_template.jinja into `folder`."""
    template = template_text()
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(tokenizer_config(template), ensure_ascii=False, indent=2),
        "special_tokens_map.json": json.dumps(NAMED, indent=2),
        "chat_template.jinja": template,
    }
    for name, text in files.items():
        write_file(folder / name, text.encode())


def template_text() -> str:
    """The chat template, byte for byte the prompts that training shows."""
    return Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
